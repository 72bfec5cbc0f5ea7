"""Assignment against the rules written out in loops."""

import statistics

import pytest
import torch

from fiber_mm.models.task_modules.atss_assigner import atss_assign, inclusive_iou

SIZES = ((12, 16), (6, 8), (3, 4))
STRIDES = (8, 16, 32)


def grid():
    """Anchors of three levels as the head makes them: 8 strides wide, inclusive."""
    levels = []
    for (h, w), s in zip(SIZES, STRIDES):
        y, x = torch.meshgrid(torch.arange(h) * s, torch.arange(w) * s, indexing='ij')
        centre = torch.stack([x, y, x, y], -1).reshape(-1, 4) + s / 2
        levels.append(centre + 4 * s * torch.tensor([-1, -1, 1, 1]) - torch.tensor([0, 0, 1, 1]))
    return levels


def random_boxes(count):
    low = torch.rand(count, 2) * torch.tensor([110.0, 80.0])
    return torch.cat([low, low + 5 + torch.rand(count, 2) * 60], -1)


def iou(a, b):
    w = min(a[2], b[2]) - max(a[0], b[0]) + 1
    h = min(a[3], b[3]) - max(a[1], b[1]) + 1
    common = max(w, 0) * max(h, 0)
    areas = [(c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (a, b)]
    return common / (sum(areas) - common)


def slow_assign(levels, boxes, topk):
    """{anchor: box} of one image."""
    anchors = torch.cat(levels).tolist()
    best = {}
    for g, box in enumerate(boxes.tolist()):
        cx, cy = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        candidates, start = [], 0
        for level in levels:
            order = sorted(
                range(start, start + len(level)),
                key=lambda a: (
                    ((anchors[a][0] + anchors[a][2]) / 2 - cx) ** 2
                    + ((anchors[a][1] + anchors[a][3]) / 2 - cy) ** 2
                ),
            )
            candidates += order[:topk]
            start += len(level)
        ious = [iou(anchors[a], box) for a in candidates]
        threshold = statistics.mean(ious) + statistics.stdev(ious)
        for a, value in zip(candidates, ious):
            x, y = (anchors[a][0] + anchors[a][2]) / 2, (anchors[a][1] + anchors[a][3]) / 2
            inside = min(x - box[0], y - box[1], box[2] - x, box[3] - y) > 0.01
            if value >= threshold and inside and value > best.get(a, (-1, 0))[0]:
                best[a] = (value, g)
    return {a: g for a, (_, g) in best.items()}


@pytest.mark.parametrize('seed', range(5))
def test_equals_loops(seed):
    torch.manual_seed(seed)
    levels = grid()
    images = [random_boxes(7), random_boxes(3), random_boxes(0)]
    boxes, valid = torch.zeros(3, 7, 4), torch.zeros(3, 7, dtype=torch.bool)
    for i, rows in enumerate(images):
        boxes[i, : len(rows)], valid[i, : len(rows)] = rows, True
    found = atss_assign(torch.cat(levels), [len(v) for v in levels], boxes, valid, 9)
    count = 0
    for i, rows in enumerate(images):
        expected = slow_assign(levels, rows, 9)
        anchors = found.positive[i].nonzero()[:, 0].tolist()
        assert {a: found.matched[i, a].item() for a in anchors} == expected
        count += len(expected)
    assert count > 5


def test_overlapping_boxes_share_no_anchor():
    """Of two nested boxes, an anchor goes to the one of higher IoU."""
    levels = grid()
    boxes = torch.tensor([[[20.0, 20, 100, 80], [30.0, 25, 95, 85]]])
    found = atss_assign(torch.cat(levels), [len(v) for v in levels], boxes, torch.ones(1, 2) > 0)
    anchors = torch.cat(levels)[found.positive[0]]
    ious = inclusive_iou(anchors, boxes)[0]
    chosen = found.matched[0, found.positive[0]]
    assert len(set(chosen.tolist())) == 2
    rival = [slow_assign(levels, boxes[0, [g]], 9) for g in (0, 1)]
    shared = [a for a in rival[0] if a in rival[1]]
    assert shared
    for a in shared:
        row = found.positive[0, :a].sum()
        assert found.matched[0, a] == ious[row].argmax()


def test_padding_changes_nothing():
    levels = grid()
    sizes = [len(v) for v in levels]
    boxes = random_boxes(4)[None]
    alone = atss_assign(torch.cat(levels), sizes, boxes, torch.ones(1, 4) > 0)
    padded = torch.cat([boxes, torch.zeros(1, 5, 4)], 1)
    more = atss_assign(torch.cat(levels), sizes, padded, torch.arange(9)[None] < 4)
    assert torch.equal(alone.positive, more.positive)
    assert torch.equal(alone.matched[alone.positive], more.matched[alone.positive])


def test_level_with_fewer_anchors_than_candidates():
    anchors = grid()[2][:5]
    found = atss_assign(anchors, [5], anchors[None, :1].clone(), torch.ones(1, 1) > 0)
    assert found.positive[0].nonzero().flatten().tolist() == [0]


def test_nan_box_is_never_assigned():
    levels = grid()
    boxes = torch.full((1, 1, 4), float('nan'))
    found = atss_assign(torch.cat(levels), [len(v) for v in levels], boxes, torch.ones(1, 1) > 0)
    assert not found.positive.any()
