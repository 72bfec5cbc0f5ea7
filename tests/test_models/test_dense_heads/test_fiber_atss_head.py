"""The head: names, logits, losses and final boxes against formulas and loops."""

import copy
import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.structures import InstanceData
from torch._subclasses import FakeTensorMode

from fiber_mm.models.dense_heads import fiber_atss_head
from fiber_mm.models.dense_heads.fiber_atss_head import HeadOutputs
from fiber_mm.models.task_modules.box_coder import decode_boxes
from fiber_mm.registry import MODELS

from ..test_task_modules.test_atss_assigner import iou, slow_assign
from .toy import (
    CHANNELS,
    IMAGE,
    SIZES,
    TEXT,
    TOKENS,
    inputs,
    random_boxes,
    random_outputs,
    rough_head,
    tiny_head,
)

MANIFEST = Path(__file__).parents[2] / 'parity/data/manifest_fine.json'
CPU = torch.device('cpu')
META = dict(img_shape=IMAGE, ori_shape=(240, 300), scale_factor=(0.5, 0.5))


def sample(boxes, positive_map):
    data = DetDataSample()
    data.gt_instances = InstanceData(bboxes=boxes, positive_map=positive_map)
    return data


# ---- parameters ----------------------------------------------------------------------------------


def test_parameters_are_those_of_the_checkpoint():
    tensors = json.loads(MANIFEST.read_text())['tensors']
    wanted = {
        name.removeprefix('rpn.head.'): tuple(spec['shape'])
        for name, spec in tensors.items()
        if name.startswith('rpn.head.') and 'cls_logits' not in name
    }
    head = MODELS.build(dict(type='FiberATSSHead'))
    assert {name: tuple(value.shape) for name, value in head.state_dict().items()} == wanted


def test_initial_values():
    head = tiny_head(in_channels=64, feat_channels=64)
    assert head.bias0.item() == pytest.approx(-4.595, abs=1e-3)
    assert not head.log_scale.any()
    assert not head.bias_lang.any()
    assert head.bbox_pred.weight.std().item() == pytest.approx(0.01, rel=0.3)
    assert not head.bbox_pred.bias.any()
    assert not head.centerness.bias.any()
    assert all(scale.scale.item() == 1 for scale in head.scales)


def test_settings_are_checked():
    with pytest.raises(TypeError, match='score_threshold'):
        tiny_head(test_cfg=dict(score_threshold=0.1))
    with pytest.raises(TypeError, match='top_k'):
        tiny_head(train_cfg=dict(top_k=9))
    with pytest.raises(ValueError, match='box_end'):
        tiny_head(test_cfg=dict(box_end='half-open'))
    with pytest.raises(ValueError, match='soft_nms'):
        tiny_head(test_cfg=dict(nms=dict(type='soft_nms', iou_threshold=0.5)))
    with pytest.raises(ValueError, match='class_agnostic'):
        tiny_head(test_cfg=dict(nms=dict(type='nms', iou_threshold=0.5, class_agnostic=True)))
    two = dict(
        type='mmdet.AnchorGenerator', strides=[8], ratios=[0.5, 1.0], scales=[8], center_offset=0.5
    )
    with pytest.raises(ValueError, match='one anchor per position'):
        tiny_head(anchor_generator=two)


# ---- forward -------------------------------------------------------------------------------------


def test_logits_are_the_formula():
    head = rough_head()
    feats, text, mask = inputs()
    outputs = head(feats, text, mask)
    maps = head.dyhead_tower(feats)
    unit = text / text.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    projected = F.linear(unit / 2, *head.dot_product_projection_text.parameters())
    for level, feat in enumerate(maps):
        x = feat.flatten(2).transpose(1, 2)
        logits = x @ projected.transpose(1, 2) / head.log_scale.exp()
        logits = logits + (unit * head.bias_lang).sum(-1)[:, None] + head.bias0
        torch.testing.assert_close(outputs.token_logits[level], logits, rtol=1e-4, atol=1e-4)
        boxes = F.conv2d(feat, head.bbox_pred.weight, head.bbox_pred.bias)
        torch.testing.assert_close(outputs.bbox_preds[level], boxes * head.scales[level].scale)
        assert outputs.centernesses[level].shape == (2, 1, *SIZES[level])


def test_logits_are_clamped():
    head = rough_head()
    head.bias0.data.fill_(1e6)
    outputs = head(*inputs())
    assert all((logits == 50000).all() for logits in outputs.token_logits)


def test_number_of_tokens_is_free_and_more_padding_changes_nothing():
    head = rough_head()
    feats, text, mask = inputs()
    longer = head(feats, F.pad(text, (0, 0, 0, 9)), F.pad(mask, (0, 9)))
    for short, long in zip(head(feats, text, mask).token_logits, longer.token_logits):
        assert long.shape[-1] == TOKENS + 9
        torch.testing.assert_close(long[..., :TOKENS], short)


def test_wrong_inputs_are_named():
    head = tiny_head()
    feats, text, mask = inputs()
    with pytest.raises(ValueError, match='5 levels, but got 4 maps'):
        head(feats[:4], text, mask)
    with pytest.raises(ValueError, match=r'\(B, T, 12\)'):
        head(feats, text[..., :5], mask)
    with pytest.raises(ValueError, match='text_mask'):
        head(feats, text, mask[:, :5])


def test_bf16_autocast():
    head = rough_head(in_channels=64, feat_channels=64).eval()
    feats = [torch.randn(2, 64, h, w) for h, w in SIZES]
    _, text, mask = inputs()
    with torch.no_grad():
        exact = head(feats, text, mask)
        with torch.autocast('cpu', torch.bfloat16):
            near = head(feats, text, mask)
    for a, b in zip(near, exact):
        a, b = (torch.cat([x.float().flatten() for x in levels]) for levels in (a, b))
        assert (a - b).square().mean().sqrt() < 8e-2 * b.std()


def test_anchors_are_the_released_ones():
    head = tiny_head()
    anchors = head.anchors(SIZES, CPU)
    first = torch.tensor([[-28.0, -28, 35, 35], [-20, -28, 43, 35]])  # 64 pixels round (4, 4)
    assert torch.equal(anchors[0][:2], first)
    assert torch.equal(anchors[4][0], torch.tensor([-448.0, -448, 575, 575]))
    assert [len(a) for a in anchors] == [h * w for h, w in SIZES]
    assert head.anchors(SIZES, CPU) is anchors
    for i in range(fiber_atss_head.ANCHOR_CACHE + 3):
        head.anchors([(i + 1, 1)] * 5, CPU)
    assert len(head._anchors) == fiber_atss_head.ANCHOR_CACHE
    again = copy.deepcopy(head).anchors(SIZES, CPU)
    assert all(torch.equal(a, b) for a, b in zip(again, anchors))


# ---- loss ----------------------------------------------------------------------------------------


def slow_losses(head, outputs, mask, boxes, maps, num_positive=None, centerness_sum=None):
    """Losses by the formulas of FIBER's paper and code, anchor by anchor."""
    levels = head.anchors([m.shape[2:] for m in outputs.bbox_preds], CPU)
    anchors = torch.cat(levels)
    logits = torch.cat(outputs.token_logits, 1).double()
    deltas = torch.cat([m.flatten(2).transpose(1, 2) for m in outputs.bbox_preds], 1)
    central = torch.cat([m.flatten(1) for m in outputs.centernesses], 1).double()
    count, weights, regression, centre, tokens = 0, 0.0, 0.0, 0.0, 0.0
    for i in range(len(boxes)):
        found = slow_assign(levels, boxes[i], 9)
        count += len(found)
        targets = torch.zeros_like(logits[i])
        for a, g in found.items():
            x, y = ((anchors[a, :2] + anchors[a, 2:]) / 2).tolist()
            x1, y1, x2, y2 = boxes[i][g].tolist()
            left, right, top, bottom = x - x1, x2 - x, y - y1, y2 - y
            quality = math.sqrt(
                min(left, right) / max(left, right) * min(top, bottom) / max(top, bottom)
            )
            p = decode_boxes(deltas[i, a], anchors[a]).tolist()
            w = max(0, min(p[2], x2) - max(p[0], x1))
            h = max(0, min(p[3], y2) - max(p[1], y1))
            union = (p[2] - p[0]) * (p[3] - p[1]) + (x2 - x1) * (y2 - y1) - w * h
            hull = (max(p[2], x2) - min(p[0], x1)) * (max(p[3], y2) - min(p[1], y1))
            regression += quality * (1 - w * h / union + (hull - union) / hull)
            weights += quality
            score = torch.sigmoid(central[i, a])
            centre -= quality * score.log().item() + (1 - quality) * (1 - score).log().item()
            targets[a] = maps[i][g]
        real = logits[i][:, mask[i]]
        right = torch.where(targets[:, mask[i]] > 0, real, -real)
        alpha = 0.75 - 0.5 * targets[:, mask[i]]
        tokens -= (alpha * torch.sigmoid(-right) ** 2 * F.logsigmoid(right)).sum().item()
    num_positive = num_positive or max(count, 1)
    centerness_sum = centerness_sum or weights or 1
    return dict(
        loss_cls=tokens / num_positive,
        loss_bbox=2 * regression / centerness_sum,
        loss_centerness=centre / num_positive,
    )


def check_losses(losses, expected):
    assert set(losses) == set(expected)
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value, rel=1e-4), name


def targets(counts=(6, 4), tokens=TOKENS):
    return (
        [random_boxes(n) for n in counts],
        [torch.rand(n, tokens) > 0.7 for n in counts],
    )


@pytest.mark.parametrize('counts', [(6, 4), (5, 0), (0, 0)])
def test_losses_are_the_formulas(counts):
    head, outputs = tiny_head(), random_outputs()
    boxes, maps = targets(counts)
    mask = inputs()[2]
    losses = head.loss_by_outputs(outputs, mask, boxes, maps)
    assert all(loss.isfinite() for loss in losses.values())
    check_losses(losses, slow_losses(head, outputs, mask, boxes, maps))


def test_a_box_without_tokens_still_learns_its_box():
    head, outputs = tiny_head(), random_outputs()
    boxes, maps = targets((6, 4))
    mask = inputs()[2]
    with_tokens = head.loss_by_outputs(outputs, mask, boxes, maps)
    maps[0][:] = False
    losses = head.loss_by_outputs(outputs, mask, boxes, maps)
    check_losses(losses, slow_losses(head, outputs, mask, boxes, maps))
    assert losses['loss_bbox'] == with_tokens['loss_bbox']
    assert losses['loss_cls'] != with_tokens['loss_cls']


def test_losses_are_divided_by_means_over_the_ranks(monkeypatch):
    head, outputs = tiny_head(), random_outputs()
    boxes, maps = targets((6, 4))
    mask = inputs()[2]
    seen = []

    def mean_with_an_idle_rank(totals):
        seen.append(totals)
        return totals / 2

    monkeypatch.setattr(fiber_atss_head, 'reduce_mean', mean_with_an_idle_rank)
    losses = head.loss_by_outputs(outputs, mask, boxes, maps)
    # One collective a step, on a tensor; the sum of centerness targets is not clamped at 1.
    assert len(seen) == 1
    count, total = seen[0].tolist()
    check_losses(
        losses, slow_losses(head, outputs, mask, boxes, maps, max(count / 2, 1), total / 2)
    )


def test_centerness_sum_is_not_clamped():
    """A single, badly centred positive weighs as much as any other batch."""
    head, outputs = tiny_head(), random_outputs(1)
    box = torch.tensor([[11.0, 11, 60, 60]])
    mask = torch.ones(1, TOKENS, dtype=torch.bool)
    maps = [torch.ones(1, TOKENS, dtype=torch.bool)]
    centred = fiber_atss_head.centerness_targets
    for factor in (1.0, 0.01):
        fiber_atss_head.centerness_targets = lambda *a, f=factor: centred(*a) * f
        try:
            loss = head.loss_by_outputs(outputs, mask, [box], maps)['loss_bbox']
        finally:
            fiber_atss_head.centerness_targets = centred
        expected = slow_losses(head, outputs, mask, [box], maps)['loss_bbox']
        assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_no_object_token():
    """Only a prompt that fills all 256 tokens has one."""
    outputs = random_outputs(1, 256)
    boxes, maps = targets((5,), 256)
    maps[0][:, 255] = False
    mask = torch.ones(1, 256, dtype=torch.bool)
    released = tiny_head().loss_by_outputs(outputs, mask, boxes, maps)
    without = tiny_head(train_cfg=dict(no_object_token=None)).loss_by_outputs(
        outputs, mask, boxes, maps
    )
    check_losses(without, slow_losses(tiny_head(), outputs, mask, boxes, maps))
    assigned, _, _ = tiny_head().assign(outputs, boxes)
    logits = torch.cat(outputs.token_logits, 1)[0, ~assigned.positive[0], 255]
    change = -0.25 * torch.sigmoid(-logits) ** 2 * F.logsigmoid(logits)
    change = change + 0.75 * torch.sigmoid(logits) ** 2 * F.logsigmoid(-logits)
    count = assigned.positive.sum()
    assert (released['loss_cls'] - without['loss_cls']).item() == pytest.approx(
        (change.sum() / count).item(), rel=1e-3
    )
    longer = random_outputs(1, 260)  # where token 255 is a word
    boxes_, maps_ = targets((5,), 260)
    mask_ = torch.ones(1, 260, dtype=torch.bool)
    check_losses(
        tiny_head().loss_by_outputs(longer, mask_, boxes_, maps_),
        slow_losses(tiny_head(), longer, mask_, boxes_, maps_),
    )
    mask[:, 255] = False
    padded = tiny_head().loss_by_outputs(outputs, mask, boxes, maps)
    check_losses(padded, slow_losses(tiny_head(), outputs, mask, boxes, maps))


def test_every_parameter_learns():
    head = rough_head()
    feats, text, mask = inputs()
    boxes, maps = targets((6, 0))
    samples = [sample(HorizontalBoxes(boxes[0]), maps[0]), sample(boxes[1], maps[1])]
    losses = head.loss(feats, text, mask, samples)
    sum(losses.values()).backward()
    for name, param in head.named_parameters():
        assert param.grad is not None, name
        assert param.grad.isfinite().all(), name
        # The boxes of a small image reach the finer levels only.
        assert param.grad.any() or 'scales' in name, name
    assert head.scales[0].scale.grad.any()


def test_loss_under_autocast_is_fp32():
    head = rough_head()
    feats, text, mask = inputs()
    boxes, maps = targets()
    with torch.autocast('cpu', torch.bfloat16):
        losses = head.loss(feats, text, mask, [sample(b, m) for b, m in zip(boxes, maps)])
    exact = head.loss(feats, text, mask, [sample(b, m) for b, m in zip(boxes, maps)])
    for name, loss in losses.items():
        assert loss.dtype is torch.float32
        assert loss.item() == pytest.approx(exact[name].item(), rel=0.05)


def test_token_maps_must_fit():
    head, outputs = tiny_head(), random_outputs()
    boxes, maps = targets()
    mask = inputs()[2]
    with pytest.raises(ValueError, match=r'6 boxes and a prompt of 20 tokens'):
        head.loss_by_outputs(outputs, mask, boxes, [maps[0][:, :7], maps[1]])
    with pytest.raises(ValueError, match=r'4 boxes'):
        head.loss_by_outputs(outputs, mask, boxes, [maps[0], maps[1][:3]])


def test_cuda_step_reads_nothing_back():
    """Fake tensors have no values: reading one, or mixing devices, is an error."""
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device('cuda'):
        head = tiny_head(num_blocks=1)
        feats, text, mask = inputs()
        boxes, maps = targets((6, 0))
        losses = head.loss(feats, text, mask, [sample(b, m) for b, m in zip(boxes, maps)])
        assert {loss.device.type for loss in losses.values()} == {'cuda'}
        assert {loss.dtype for loss in losses.values()} == {torch.float32}


# ---- predict -------------------------------------------------------------------------------------


def slow_predict(head, outputs, token_map, ids, image, cfg):
    """Final boxes [(score, label, box)], before rescaling, candidate by candidate."""
    height, width = IMAGE
    candidates = []
    for level, anchors in enumerate(head.anchors(SIZES, CPU)):
        probs = outputs.token_logits[level][image].sigmoid().tolist()
        central = outputs.centernesses[level][image].flatten().sigmoid().tolist()
        deltas = outputs.bbox_preds[level][image].flatten(1).t()
        found = []
        for a in range(len(anchors)):
            for c, label in enumerate(ids.tolist()):
                tokens = [p for p, used in zip(probs[a], token_map[c]) if used]
                score = sum(tokens) / len(tokens) if tokens else 0.0
                if score > cfg['score_thr']:
                    found.append((score * central[a], label, a))
        found.sort(reverse=True)
        for rank, label, a in found[: cfg['nms_pre']]:
            x1, y1, x2, y2 = decode_boxes(deltas[a], anchors[a]).tolist()
            box = (
                min(max(x1, 0), width - 1),
                min(max(y1, 0), height - 1),
                min(max(x2, 0), width - 1),
                min(max(y2, 0), height - 1),
            )
            if min(box[2] - box[0], box[3] - box[1]) + 1 >= cfg.get('min_bbox_size', 0):
                candidates.append((math.sqrt(rank), label, box))
    kept = []
    for candidate in sorted(candidates, reverse=True):
        if all(k[1] != candidate[1] or iou(k[2], candidate[2]) <= 0.6 for k in kept):
            kept.append(candidate)
    if len(kept) > cfg['max_per_img']:
        kept = [k for k in kept if k[0] >= kept[cfg['max_per_img'] - 1][0]]
    return kept


def vocabulary(classes=7, tokens=TOKENS):
    token_map = torch.rand(classes, tokens) > 0.8
    token_map[torch.arange(classes), torch.arange(classes)] = True
    token_map[2] = False  # a class without tokens scores 0
    return token_map, torch.randperm(100)[:classes]


def predict(head, outputs, token_map, ids, rescale=False, meta=META, **cfg):
    batch = len(outputs.bbox_preds[0])
    return head.predict_by_outputs(
        [outputs], [[token_map] * batch], [[ids] * batch], [meta] * batch, cfg or None, rescale
    )


@pytest.mark.parametrize(
    'cfg',
    [
        dict(score_thr=0.25, nms_pre=1000, max_per_img=100),
        dict(score_thr=0.15, nms_pre=30, max_per_img=20),
        dict(score_thr=0.0, nms_pre=50, max_per_img=10, min_bbox_size=40),
    ],
)
def test_boxes_are_those_of_the_loops(cfg):
    head, outputs = tiny_head(), random_outputs()
    token_map, ids = vocabulary()
    results = predict(head, outputs, token_map, ids, **cfg, box_end='inclusive')
    for image, result in enumerate(results):
        expected = slow_predict(head, outputs, token_map, ids, image, cfg)
        assert len(expected) > 5
        assert result.labels.tolist() == [label for _, label, _ in expected]
        assert result.labels.dtype is torch.int64
        scores, boxes = (torch.tensor([e[i] for e in expected]) for i in (0, 2))
        torch.testing.assert_close(result.scores, scores)
        torch.testing.assert_close(result.bboxes, boxes, rtol=1e-5, atol=1e-3)


def test_ranking_is_by_class_times_centerness():
    """Ranking by class alone would keep the other box."""
    outputs = random_outputs(1)
    for level in range(5):
        outputs.token_logits[level].fill_(-10)
        outputs.centernesses[level].fill_(0)
    outputs.token_logits[0][0, 3] = 2.0
    outputs.centernesses[0].view(-1)[3] = -4.0
    outputs.token_logits[0][0, 200] = 1.0
    outputs.centernesses[0].view(-1)[200] = 4.0
    result = predict(tiny_head(), outputs, torch.ones(1, TOKENS) > 0, torch.tensor([5]), nms_pre=1)[
        0
    ]
    probs = torch.tensor([1.0, 4.0]).sigmoid()
    assert result.scores.tolist() == pytest.approx([probs.prod().sqrt().item()])


def test_equal_scores_at_the_limit_all_stay():
    outputs = random_outputs(1)
    for level in range(5):
        outputs.token_logits[level].fill_(-10)
        outputs.centernesses[level].fill_(0)
        outputs.bbox_preds[level].fill_(0)
    far_apart = [0, 9, 19, 160, 169, 179]
    outputs.token_logits[0][0, far_apart] = 1.0
    outputs.token_logits[0][0, 0] = 2.0
    token_map, ids = torch.ones(1, TOKENS) > 0, torch.tensor([5])
    assert len(predict(tiny_head(), outputs, token_map, ids, max_per_img=3)[0].scores) == 6
    assert len(predict(tiny_head(), outputs, token_map, ids, max_per_img=1)[0].scores) == 1


def split(outputs, token_map, ids, parts):
    """Chunks whose classes are disjoint and whose heads say the same."""
    pieces = torch.arange(len(ids)).chunk(parts)
    batch = len(outputs.bbox_preds[0])
    return (
        [outputs] * len(pieces),
        [[token_map[p]] * batch for p in pieces],
        [[ids[p]] * batch for p in pieces],
        [META] * batch,
    )


@pytest.mark.parametrize('nms_pre', [1000, 40])
def test_chunks_compete_as_one_vocabulary(nms_pre):
    head, outputs = tiny_head(), random_outputs()
    token_map, ids = vocabulary(9)
    cfg = dict(nms_pre=nms_pre, max_per_img=30)
    whole = predict(head, outputs, token_map, ids, **cfg)
    chunked = head.predict_by_outputs(*split(outputs, token_map, ids, 4), cfg, rescale=False)
    for a, b in zip(whole, chunked):
        assert a.labels.tolist() == b.labels.tolist()
        # A product with fewer columns may differ in the last bit.
        torch.testing.assert_close(a.scores, b.scores, rtol=1e-6, atol=0)
        assert torch.equal(a.bboxes, b.bboxes)


def test_chunks_of_their_own():
    """The released LVIS evaluation: as many boxes per chunk as otherwise per image."""
    head, outputs = tiny_head(), random_outputs()
    token_map, ids = vocabulary(8)
    cfg = dict(max_per_img=11, joint_chunks=False)
    chunks = split(outputs, token_map, ids, 2)
    for image, result in enumerate(head.predict_by_outputs(*chunks, cfg, rescale=False)):
        parts = [
            predict(head, outputs, token_map[p], ids[p], max_per_img=11)[image]
            for p in torch.arange(8).chunk(2)
        ]
        assert len(result.scores) == 22
        assert result.scores.tolist() == sorted(
            [s for p in parts for s in p.scores.tolist()], reverse=True
        )
        pairs = {(s, tuple(b)) for s, b in zip(result.scores.tolist(), result.bboxes.tolist())}
        for part in parts:
            assert set(zip(part.scores.tolist(), map(tuple, part.bboxes.tolist()))) <= pairs


def test_images_have_their_own_classes_and_sizes():
    head, outputs = tiny_head(), random_outputs()
    (map_a, ids_a), (map_b, ids_b) = vocabulary(7), vocabulary(3)
    small = dict(META, img_shape=(60, 70))
    results = head.predict_by_outputs(
        [outputs], [[map_a, map_b]], [[ids_a, ids_b]], [META, small], rescale=False
    )
    assert set(results[1].labels.tolist()) <= set(ids_b.tolist())
    assert results[1].bboxes[:, 2].max() <= 70  # exclusive end
    assert results[1].bboxes[:, 3].max() <= 60
    assert results[0].bboxes[:, 2].max() > 100
    assert torch.equal(results[0].bboxes, predict(head, outputs, map_a, ids_a)[0].bboxes)


def test_rescaling_and_the_last_pixel():
    head, outputs = tiny_head(), random_outputs(1)
    token_map, ids = vocabulary()
    plain = predict(head, outputs, token_map, ids, box_end='inclusive')[0].bboxes
    meta = dict(META, scale_factor=(0.5, 0.4))
    inclusive = predict(head, outputs, token_map, ids, True, meta, box_end='inclusive')[0].bboxes
    torch.testing.assert_close(inclusive, plain * torch.tensor([2, 2.5, 2, 2.5]))
    exclusive = predict(head, outputs, token_map, ids, True, meta, box_end='exclusive')[0].bboxes
    torch.testing.assert_close(exclusive, inclusive + torch.tensor([0, 0, 1, 1]))
    meta = dict(img_shape=IMAGE, ori_shape=(360, 300))
    by_sides = predict(head, outputs, token_map, ids, True, meta, box_end='inclusive')[0].bboxes
    torch.testing.assert_close(by_sides, plain * torch.tensor([2, 3, 2, 3]))


@pytest.mark.parametrize('classes', [0, 2])
def test_nothing_found(classes):
    outputs = random_outputs()
    for logits in outputs.token_logits:
        logits.fill_(-20)
    token_map = torch.ones(classes, TOKENS, dtype=torch.bool)
    for result in predict(tiny_head(), outputs, token_map, torch.arange(classes), True):
        assert result.bboxes.shape == (0, 4)
        assert len(result.scores) == len(result.labels) == 0


def test_bf16_outputs_are_scored_in_fp32():
    outputs = HeadOutputs(*([x.bfloat16() for x in levels] for levels in random_outputs()))
    wide = HeadOutputs(*([x.float() for x in levels] for levels in outputs))
    token_map, ids = vocabulary()
    for a, b in zip(*(predict(tiny_head(), o, token_map, ids) for o in (outputs, wide))):
        assert torch.equal(a.scores, b.scores)
        assert torch.equal(a.bboxes, b.bboxes)


def test_widths_are_independent():
    """Text width, tower width and number of tokens all differ."""
    assert len({CHANNELS, TEXT, TOKENS}) == 3
    head = tiny_head(in_channels=CHANNELS, feat_channels=24)
    outputs = head(*inputs())
    assert outputs.token_logits[0].shape == (2, 320, TOKENS)
