"""One function per kind of golden: run our model on its inputs and compare everything in it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from math import isqrt

import numpy as np
import torch
from mmengine.structures import InstanceData
from torch import Tensor, nn

from fiber_mm.convert import initial_weights
from fiber_mm.models.dense_heads.fiber_atss_head import centerness_targets
from fiber_mm.models.task_modules.box_coder import encode_boxes

from . import kit
from .bounds import (
    BOX_LOGITS,
    COARSE_LOGITS,
    DERIVED,
    FEATURES,
    GATES,
    GRADIENT,
    LOSS,
    TOKEN_LOGITS,
    TOWER,
    Bound,
    Comparison,
    matched_share,
    no_gradient,
)
from .kit import Golden, Loaded, Models


def compare_sample(cmp: Comparison, golden: Golden, name: str, got: Tensor, bound: Bound) -> None:
    """Compare a large tensor by its stored subset and by mean and std of the whole."""
    want, slices, mean, std = golden.sample(name)
    shape = golden.arrays.get(f'{name}.shape', golden.arrays.get(f'{name}__shape'))
    cmp.equal(f'{name}.shape', np.array(got.shape), shape)
    cmp.close(name, got[slices], want, bound, std=std)
    whole = got.double()
    cmp.close(f'{name}.mean', whole.mean(), mean, DERIVED, scale=std)
    cmp.close(f'{name}.std', whole.std(), std, DERIVED, scale=std)


def autocast(cmp: Comparison) -> contextlib.AbstractContextManager:
    """bf16 autocast where the comparison is for bf16."""
    return torch.autocast('cpu', torch.bfloat16, enabled=cmp.bf16)


# ---- fine stage ------------------------------------------------------------------------------


def fine_outputs(models: Models, golden: Golden, cmp: Comparison) -> dict:
    """Everything from the encoder to the head for a golden's inputs."""
    arrays = golden.arrays
    key = (
        str(golden.manifest),
        cmp.bf16,
        int(arrays['image_seed']),
        arrays['sizes'].tobytes(),
        arrays['input_ids'].tobytes(),
    )

    def compute() -> dict:
        model = models.get(golden.manifest).model
        images, ids, mask = kit.fine_batch(arrays)
        tower: list[list[Tensor]] = []
        hooks = [
            block.register_forward_hook(lambda _, __, out: tower.append(list(out)))
            for block in model.bbox_head.dyhead_tower
        ]
        with torch.no_grad(), autocast(cmp):
            encoder = model.backbone.encoder
            trunks = encoder.image_trunk(images), encoder.text_trunk(ids, mask)
            # As FiberGrounder.grounded_features, which fine_loss goes through.
            maps, features = model.backbone.fuse(*trunks)
            pyramid, embedded = model.neck(maps), features.text_tokens * mask[..., None]
            head = model.bbox_head(pyramid, embedded, mask)
        for hook in hooks:
            hook.remove()
        return {
            'features': features,
            'pyramid': pyramid,
            'embedded': embedded,
            'mask': mask,
            'tower': tower,
            'head': head,
        }

    models.get(golden.manifest)  # a new model empties the cache
    return models.outputs(key, compute)


def fine_features(models: Models, golden: Golden, cmp: Comparison) -> None:
    """Stage maps, FPN and text."""
    out = fine_outputs(models, golden, cmp)
    for i, stage in enumerate(out['features'].stage_maps):
        compare_sample(cmp, golden, f'stages.{i}', stage, FEATURES)
    for i, level in enumerate(out['pyramid']):
        compare_sample(cmp, golden, f'fpn.{i}', level, FEATURES)
    hidden, embedded, mask = out['features'].text_tokens, out['embedded'], out['mask']
    compare_sample(cmp, golden, 'text.hidden', hidden, FEATURES)
    compare_sample(cmp, golden, 'text.embedded', embedded, FEATURES)
    aggregate = embedded.float().sum(1) / mask.sum(1, keepdim=True)
    cmp.close('text.aggregate', aggregate, golden.arrays['text.aggregate'], FEATURES)
    cmp.equal('text.masks', mask.long(), golden.arrays['text.masks'])


def fine_head(models: Models, golden: Golden, cmp: Comparison) -> None:
    """Tower, box and centerness outputs, token logits, anchors."""
    out = fine_outputs(models, golden, cmp)
    arrays, head = golden.arrays, out['head']
    for i, maps in enumerate(out['tower']):
        for level, value in enumerate(maps):
            compare_sample(cmp, golden, f'dyconv.{i}.{level}', value, TOWER)
    anchors = models.get(golden.manifest).model.bbox_head.anchors(
        [m.shape[2:] for m in head.bbox_preds], torch.device('cpu')
    )
    for level in range(len(head.bbox_preds)):
        cmp.close(
            f'bbox_pred.{level}', head.bbox_preds[level], arrays[f'bbox_pred.{level}'], BOX_LOGITS
        )
        cmp.close(
            f'centerness.{level}',
            head.centernesses[level],
            arrays[f'centerness.{level}'],
            BOX_LOGITS,
        )
        compare_sample(cmp, golden, f'dot_product.{level}', head.token_logits[level], TOKEN_LOGITS)
        cmp.equal(f'anchors.{level}', anchors[level][:3], arrays[f'anchors.{level}'])


def fine_detect(models: Models, golden: Golden, cmp: Comparison) -> None:
    """Final boxes for every label map in the file."""
    arrays = golden.arrays
    out = fine_outputs(models, golden, cmp)
    head = models.get(golden.manifest).model.bbox_head
    sizes = [(int(h), int(w)) for h, w in arrays['sizes']]
    length = out['mask'].shape[1]
    for task in [key.removesuffix('.settings') for key in arrays if key.endswith('.settings')]:
        settings = json.loads(str(arrays[f'{task}.settings']))
        tokens = torch.from_numpy(arrays[f'{task}.tokens'])
        token_map = torch.zeros(len(tokens), length + 1, dtype=torch.bool)
        token_map[torch.arange(len(tokens))[:, None], tokens.where(tokens >= 0, length)] = True
        token_map = token_map[:, :length]
        labels = torch.from_numpy(arrays[f'{task}.labels'])
        cfg = dict(
            score_thr=settings['score_thr'],
            nms_pre=settings['nms_pre'],
            nms=dict(type='nms', iou_threshold=settings['nms_iou']),
            max_per_img=settings['max_per_img'],
            min_bbox_size=settings['min_size'],
            box_end='inclusive',
        )
        found = head.predict_by_outputs(
            [out['head']],
            [[token_map] * len(sizes)],
            [[labels] * len(sizes)],
            [dict(img_shape=size, scale_factor=(1.0, 1.0)) for size in sizes],
            cfg,
            rescale=False,
        )
        for i, result in enumerate(found):
            compare_detections(cmp, f'{task}.{i}', result, arrays)


def compare_detections(cmp: Comparison, name: str, result: InstanceData, arrays) -> None:
    """At least the stated share of detections must have a partner."""
    share = matched_share(
        result.bboxes.numpy(),
        result.scores.numpy(),
        result.labels.numpy(),
        arrays[f'{name}.boxes'],
        arrays[f'{name}.scores'],
        arrays[f'{name}.labels'],
    )
    cmp.at_least(name, share, float(arrays[f'{name}.agreement']))


def fine_refexp(models: Models, golden: Golden, cmp: Comparison) -> None:
    """Features, head and detections of the family with `norm_i2t_i`."""
    fine_features(models, golden, cmp)
    fine_head(models, golden, cmp)
    if not cmp.bf16:
        fine_detect(models, golden, cmp)


def fine_loss(models: Models, golden: Golden, cmp: Comparison) -> None:
    """Assignment, losses and gradients of one training step."""
    arrays = golden.arrays
    loaded = models.get(golden.manifest)
    models.outputs((), lambda: None)  # frees the outputs of other cases
    model = loaded.model
    images, ids, mask = kit.fine_batch(arrays)
    count = len(images)
    boxes = [torch.from_numpy(arrays[f'{i}.boxes']) for i in range(count)]
    maps = torch.from_numpy(arrays['positive_map'].astype(bool)).split([len(b) for b in boxes])
    encoder = model.backbone.encoder
    feats, text, mask = model.grounded_features(
        encoder.image_trunk(images), encoder.text_trunk(ids, mask)
    )
    outputs = model.bbox_head(feats, text, mask)
    compare_assignment(cmp, model.bbox_head, outputs, boxes, arrays)

    losses = model.bbox_head.loss_by_outputs(outputs, mask, boxes, maps)
    names = {
        'loss_reg': 'loss_bbox',
        'loss_centerness': 'loss_centerness',
        'loss_dot_product_token': 'loss_cls',
    }
    for theirs, ours in names.items():
        cmp.relative(theirs, losses[ours].detach(), arrays[theirs], LOSS)
    cmp.relative('total', sum(losses.values()).detach(), arrays['total'], LOSS)
    del feats, text, outputs

    groups = kit.original_groups(loaded)
    model.zero_grad(set_to_none=True)
    try:
        (losses['loss_bbox'] + losses['loss_centerness']).backward(retain_graph=True)
        compare_gradients(cmp, loaded, groups, arrays, 'boxes')
        losses['loss_cls'].backward()
        compare_gradients(cmp, loaded, groups, arrays, 'total')
    finally:
        model.zero_grad(set_to_none=True)


def compare_assignment(cmp: Comparison, head: nn.Module, outputs, boxes, arrays) -> None:
    """Positive anchors, their boxes, and their targets."""
    found, anchors, matched = head.assign(outputs, boxes)
    sizes = [level.shape[2] * level.shape[3] for level in outputs.bbox_preds]
    for i in range(len(boxes)):
        positive = found.positive[i].nonzero()[:, 0]
        cmp.equal(f'{i}.positive', positive, arrays[f'{i}.positive'])
        cmp.equal(f'{i}.positive_gt', found.matched[i][positive], arrays[f'{i}.positive_gt'])
        per_level = np.array([int(part.sum()) for part in found.positive[i].split(sizes)])
        cmp.equal(f'{i}.per_level', per_level, arrays[f'{i}.per_level'])
        cmp.equal(f'{i}.num_anchors', np.array(sizes), arrays[f'{i}.num_anchors'])
        targets = matched[i][positive], anchors[positive]
        cmp.close(f'{i}.reg_targets', encode_boxes(*targets), arrays[f'{i}.reg_targets'], DERIVED)
        cmp.close(
            f'{i}.centerness_targets',
            centerness_targets(targets[1], targets[0]),
            arrays[f'{i}.centerness_targets'],
            DERIVED,
        )


def compare_gradients(cmp: Comparison, loaded: Loaded, groups, arrays, which: str) -> None:
    """Norms by group, gates together, and the tensors stored in full."""
    wanted = dict(zip(arrays['grad_norm.names'].tolist(), arrays[f'grad_norm.{which}']))
    cmp.equal(f'grad_norm.names.{which}', np.array(sorted(groups)), np.array(sorted(wanted)))
    for name, want in wanted.items():
        grads = [p.grad for p in groups.get(name, ())]
        if np.isnan(want):  # no gradient at all: frozen, or not reached by this loss
            cmp.at_least(f'grad_norm.{which}.{name} is none', all(map(no_gradient, grads)), 1)
            continue
        norm = torch.stack([g.double().norm() for g in grads if g is not None]).norm()
        cmp.relative(f'grad_norm.{which}.{name}', norm, want, GRADIENT)
    gates = [kit.our_parameter(loaded, key).grad for key in arrays['gate.names'].tolist()]
    want = arrays[f'gate.{which}'].astype(np.float64)
    reached = ~np.isnan(want)
    cmp.equal(f'gate.{which} is none', np.array([no_gradient(g) for g in gates]), ~reached)
    got = np.array([0.0 if g is None else float(g) for g in gates])
    cmp.close(
        f'gate.{which}',
        got[reached],
        want[reached],
        GATES,
        scale=float(np.linalg.norm(want[reached])),
    )
    prefix = f'grad.{which}.'
    for key in [k for k in arrays if k.startswith(prefix)]:
        grad = kit.our_parameter(loaded, key.removeprefix(prefix)).grad
        cmp.close(key, grad, arrays[key], GRADIENT)


# ---- coarse stage ----------------------------------------------------------------------------


@contextlib.contextmanager
def traced(loaded: Loaded, golden: Golden, cmp: Comparison) -> Iterator[None]:
    """Compares the modules' outputs with the golden's traces; says where a failure begins.

    A trace is 32 values of the first sample; it is no bound of its own, only a hint.
    """
    hints: list[tuple[str, float]] = []
    hooks = []

    def hook(name: str, want: np.ndarray, std: float) -> Callable:
        def compare(module: nn.Module, inputs, output: Tensor) -> None:
            flat = output[0].detach().float().flatten()
            got = flat[:: max(1, flat.numel() // 32)][:32].numpy()
            error = np.abs(got - want).max() / std if got.shape == want.shape else np.inf
            hints.append((name, float(error)))

        return compare

    for name in golden.arrays:
        if not name.startswith('trace/') or name.endswith('__mean_std'):
            continue
        key = name.removeprefix('trace/')
        ours = key.replace('vit_model.', 'encoder.image.').replace(
            'text_transformer.', 'encoder.text.'
        )
        module = loaded.model.get_submodule(ours)
        std = float(golden.arrays[f'{name}__mean_std'][1])
        hooks.append(module.register_forward_hook(hook(key, golden.arrays[name], std)))
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()
    first = next((f'{name} ({error:.2g})' for name, error in hints if error > FEATURES.fp32), None)
    if first and not cmp.bf16:
        cmp.hints.append(f'traces part first at {first}')


def coarse_fused(models: Models, golden: Golden, cmp: Comparison) -> None:
    """The fused pass with its MLM and ITM heads."""
    loaded = models.get(golden.manifest)
    model, arrays = loaded.model, golden.arrays
    with torch.no_grad(), autocast(cmp), traced(loaded, golden, cmp):
        joint = model(kit.coarse_image(golden), *_texts(arrays))
        logits = model.mlm_score(joint.text).float()
        itm, rank = model.itm_score(joint.pooled), model.rank_scores(joint.pooled)
    compare_sample(cmp, golden, 'text_feats', joint.text, FEATURES)
    compare_sample(cmp, golden, 'image_feats', joint.image, FEATURES)
    cmp.close('cls_feats', joint.pooled, arrays['cls_feats'], FEATURES)
    compare_sample(cmp, golden, 'mlm_logits', logits, COARSE_LOGITS)
    cmp.close(
        'mlm_logsumexp',
        logits.logsumexp(-1),
        arrays['mlm_logsumexp'],
        DERIVED,
        scale=float(arrays['mlm_logits__std']),
    )
    if not cmp.bf16:
        cmp.equal('mlm_argmax', logits.argmax(-1), arrays['mlm_argmax'])
    cmp.close('itm_logits', itm, arrays['itm_logits'], COARSE_LOGITS)
    cmp.close('rank_scores', rank, arrays['rank_scores'], COARSE_LOGITS)


def _texts(arrays) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(arrays['text_ids']), torch.from_numpy(arrays['text_masks']).bool()


def coarse_itc(models: Models, golden: Golden, cmp: Comparison) -> None:
    """Both modalities alone, for image-text contrast."""
    model, arrays = models.get(golden.manifest).model, golden.arrays
    with torch.no_grad(), autocast(cmp):
        image = model.contrast_image(model.encoder.image_trunk(kit.coarse_image(golden)))
        text = model.contrast_text(model.encoder.text_trunk(*_texts(arrays)))
        similarity = image.pooled.float() @ text.pooled.float().t()
    compare_sample(cmp, golden, 'image_feats', image.tokens, FEATURES)
    compare_sample(cmp, golden, 'text_feats', text.tokens, FEATURES)
    cmp.close('image_cls', image.pooled, arrays['image_cls'], FEATURES)
    cmp.close('text_cls', text.pooled, arrays['text_cls'], FEATURES)
    cmp.close('similarity', similarity, arrays['similarity'], FEATURES)
    cmp.close('temp', model.temp, arrays['temp'], FEATURES)


def coarse_posbias(models: Models, golden: Golden, cmp: Comparison) -> None:
    """Bias tables resized to another window by the converter's path for initial weights."""
    tables = {
        key: value
        for key, value in golden.arrays.items()
        if key.endswith('relative_position_bias_table')
    }
    window = (isqrt(len(next(iter(tables.values())))) + 1) // 2
    content = json.loads(golden.manifest.read_text())['tensors']
    make = kit.synth().synth_tensor
    state = {
        key: make(key, spec['shape']) if key in tables else torch.zeros(()).expand(spec['shape'])
        for key, spec in content.items()
    }
    result = initial_weights([state], 'encoder', window)
    for key, want in tables.items():
        cmp.close(key, result.state_dict[result.report.used[key]], want, DERIVED)


CASES: dict[str, Callable[[Models, Golden, Comparison], None]] = {
    'fine_features': fine_features,
    'fine_head': fine_head,
    'fine_detect': fine_detect,
    'fine_loss': fine_loss,
    'fine_refexp': fine_refexp,
    'coarse_fused': coarse_fused,
    'coarse_itc': coarse_itc,
    'coarse_posbias': coarse_posbias,
}
BF16 = ('fine_features', 'fine_head', 'fine_refexp', 'coarse_fused', 'coarse_itc')
