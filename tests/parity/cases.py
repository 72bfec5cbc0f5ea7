"""One function per kind of golden: run our model on its inputs and compare everything in it."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from math import isqrt
from unittest import mock

import numpy as np
import torch
from mmengine.structures import InstanceData
from torch import Tensor, nn

from fiber_mm.convert import initial_weights
from fiber_mm.models.dense_heads.fiber_atss_head import centerness_targets
from fiber_mm.models.losses.itc import ContrastOutput, contrastive_loss
from fiber_mm.models.losses.itm import negative_weights
from fiber_mm.models.multimodal.queue import NegativeQueue
from fiber_mm.models.task_modules.box_coder import encode_boxes
from fiber_mm.structures import TextBatch

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
        joint = model.joint(model.encoder(kit.coarse_image(golden), *_texts(arrays)))
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
    if cmp.bf16:
        return
    # The same pairs in retrieval, from the trunks of all images and of all texts.
    texts = TextBatch(*_texts(arrays))
    with torch.no_grad():
        retrieval = kit.as_retrieval(loaded, 'rank_output')
        image = retrieval.encode_images(kit.coarse_image(golden))
        matrix = retrieval.score_matrix(image, retrieval.encode_texts(texts))
    cmp.close('retrieval rank_scores', matrix.diagonal(), arrays['rank_scores'], COARSE_LOGITS)


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
    if not cmp.bf16:
        with torch.no_grad():
            retrieval = kit.as_retrieval(models.get(golden.manifest), 'itm_score')
            image = retrieval.extract_feat(kit.coarse_image(golden))['image_feat']
            text = retrieval.extract_feat(texts=TextBatch(*_texts(arrays)))['text_feat']
        cmp.close('retrieval image_cls', image, arrays['image_cls'], FEATURES)
        cmp.close('retrieval text_cls', text, arrays['text_cls'], FEATURES)


@contextlib.contextmanager
def pretraining(loaded: Loaded, golden: Golden) -> Iterator[dict]:
    """The model with the golden's queue and its drawn negatives; notes what they are drawn by."""
    model, seen = loaded.model, {}

    def drawn(contrast: ContrastOutput, own: Tensor, drawable: int) -> tuple[Tensor, Tensor]:
        for name in ('t2i', 'i2t'):
            seen[name] = negative_weights(getattr(contrast, name)[:, :drawable], own)
        names = ('image_negatives', 'text_negatives')
        return tuple(torch.from_numpy(golden.arrays[name]) for name in names)

    queue = kit.GoldenQueue(golden)
    with (
        mock.patch.object(model, 'queue', queue),
        mock.patch.object(model, 'draw_negatives', drawn),
    ):
        yield seen


def coarse_losses(models: Models, golden: Golden, cmp: Comparison) -> None:
    """Losses of a pre-training step with a queue that is filled in part, and full."""
    loaded = models.get(golden.manifest)
    model, arrays = loaded.model, golden.arrays
    images, texts = kit.coarse_image(golden), kit.coarse_texts(golden)
    logits: list[Tensor] = []
    with torch.no_grad(), pretraining(loaded, golden) as weights:
        hook = model.itm_score.register_forward_hook(lambda _, __, out: logits.append(out))
        losses = model.loss(images, texts)
        hook.remove()
        cmp.close('itm_logits', logits[0], arrays['itm_logits'], COARSE_LOGITS)
        for name, loss in losses.items():
            if name.startswith('loss_'):
                name = name.removeprefix('loss_') + '_loss'
                cmp.relative(name, loss, arrays[name], LOSS)
        for name, value in weights.items():
            cmp.close(f'weights_{name}', value, arrays[f'weights_{name}'], DERIVED, scale=1.0)

        # The whole of the MLM logits, of which the loss needs those of hidden words only.
        joint = model.joint(model.encoder(images, texts.masked_ids, texts.attention_mask))
        compare_sample(cmp, golden, 'mlm_logits', model.mlm_score(joint.text), COARSE_LOGITS)

        trunks = model.trunks(images, texts)
        image, text = model.contrast_image(trunks.image), model.contrast_text(trunks.text)
        model.queue.noise = False
        compare_contrast(cmp, model, image.pooled, text.pooled, 'itc_loss_filled_only', arrays)
        model.queue.noise = True
        model.queue.fill()
        weights = compare_contrast(
            cmp, model, image.pooled, text.pooled, 'itc_loss_full_queue', arrays
        )
        for name, value in weights.items():
            name = f'weights_{name}_full_queue'
            cmp.close(name, value, arrays[name], DERIVED, scale=1.0)

    queue = NegativeQueue(golden.meta['queue']['size'])
    queue.pointer, queue.total = map(int, arrays['wrap_ptr_total_before'])
    queue.put(image.pooled, text.pooled, images, texts.input_ids, texts.attention_mask)
    after = np.array([queue.pointer, queue.total])
    cmp.equal('wrap_ptr_total_after', after, arrays['wrap_ptr_total_after'])
    stored = queue.features(image.pooled)[0]
    cmp.equal('what the wrap wrote', stored[[-1, 0]], image.pooled.numpy())


def compare_contrast(
    cmp: Comparison, model: nn.Module, image: Tensor, text: Tensor, name: str, arrays
) -> dict[str, Tensor]:
    """Contrast with the queue as it is; returns the weights of hard negatives."""
    own, drawable = model.places(len(image), image.device)
    contrast = contrastive_loss(image, text, *model.candidates(image, text), own, model.temp)
    cmp.relative(name, contrast.loss, arrays[name], LOSS)
    return {
        name: negative_weights(getattr(contrast, name)[:, :drawable], own)
        for name in ('t2i', 'i2t')
    }


def coarse_grads(models: Models, golden: Golden, cmp: Comparison) -> None:
    """Gradients of the sum of the losses, parameter by parameter."""
    loaded = models.get(golden.manifest)
    model, arrays = loaded.model, golden.arrays
    model.zero_grad(set_to_none=True)
    try:
        with pretraining(loaded, golden):
            losses = model.loss(kit.coarse_image(golden), kit.coarse_texts(golden))
        losses = {name: loss for name, loss in losses.items() if name.startswith('loss_')}
        for name, loss in losses.items():
            name = name.removeprefix('loss_') + '_loss'
            cmp.relative(name, loss.detach(), arrays[name], LOSS)
        total = sum(losses.values())
        cmp.relative('total_loss', total.detach(), arrays['total_loss'], LOSS)
        total.backward()
        compare_coarse_gradients(cmp, loaded, golden)
    finally:
        model.zero_grad(set_to_none=True)


# Their true value is 0 (a key's bias shifts all scores of a query alike): rounding noise.
_ZERO_GRADIENT = re.compile(r'(attention|crossattention_t2i)\.self\.key\.bias$')


def compare_coarse_gradients(cmp: Comparison, loaded: Loaded, golden: Golden) -> None:
    """Norms of all parameters and of modules, gates together, stored tensors."""
    arrays, used = golden.arrays, loaded.report.used
    norms = dict(zip(arrays['norm_names'].tolist(), arrays['norms']))
    without = set(golden.meta['no_grad'])
    ours = {key for key in used if used[key] in dict(loaded.model.named_parameters())}
    cmp.equal('parameters', np.array(sorted(ours - without)), np.array(sorted(norms)))
    for key in sorted(without & ours):
        cmp.at_least(f'{key} has none', no_gradient(kit.our_parameter(loaded, key).grad), 1)
    got = {}
    for key, want in norms.items():
        got[key] = float(kit.our_parameter(loaded, key).grad.double().norm())
        if _ZERO_GRADIENT.search(key):
            # Against the gradient of the bias beside it, which is of the usual size.
            scale = norms[key.replace('.key.', '.value.')]
            cmp.close(f'norms {key}', got[key] / scale, np.array(0.0), GRADIENT, scale=1.0)
        elif 'alpha_' not in key:
            cmp.relative(f'norms {key}', got[key], want, GRADIENT)
    for group, want in zip(arrays['group_names'].tolist(), arrays['group_norms']):
        norm = np.linalg.norm([got[key] for key in norms if key.split('.')[0] == group])
        cmp.relative(f'group_norms {group}', norm, want, GRADIENT)

    gates = [key for key in arrays if key.startswith('grad/') and 'alpha_' in key]
    want = np.concatenate([arrays[key] for key in gates]).astype(np.float64)
    grads = [kit.our_parameter(loaded, key.removeprefix('grad/')).grad for key in gates]
    cmp.close('gates', torch.cat(grads), want, GATES, scale=float(np.linalg.norm(want)))
    for key in [key for key in arrays if key.startswith('grad/') and '__' not in key]:
        grad = kit.our_parameter(loaded, key.removeprefix('grad/')).grad
        if key in gates:
            continue
        if f'{key}__strides' in arrays:
            value, slices, _, std = golden.sample(key)
            cmp.close(key, grad[slices], value, GRADIENT, std=std)
        else:
            cmp.close(key, grad, arrays[key], GRADIENT)


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
    'coarse_losses': coarse_losses,
    'coarse_grads': coarse_grads,
    'coarse_posbias': coarse_posbias,
}
BF16 = ('fine_features', 'fine_head', 'fine_refexp', 'coarse_fused', 'coarse_itc')
