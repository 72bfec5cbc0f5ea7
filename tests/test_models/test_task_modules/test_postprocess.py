"""Clipping, suppression and the limit against loops."""

import pytest
import torch

from fiber_mm.models.task_modules.postprocess import (
    best_pairs,
    best_with_ties,
    class_wise_nms,
    clip_boxes,
)


def iou(a, b):
    w = min(a[2], b[2]) - max(a[0], b[0]) + 1
    h = min(a[3], b[3]) - max(a[1], b[1]) + 1
    common = max(w, 0) * max(h, 0)
    areas = [(c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (a, b)]
    return common / (sum(areas) - common)


def slow_nms(boxes, scores, labels, threshold):
    kept = []
    for i in sorted(range(len(scores)), key=lambda i: -scores[i]):
        if all(labels[i] != labels[j] or iou(boxes[i], boxes[j]) <= threshold for j in kept):
            kept.append(i)
    return kept


def test_clip_is_inclusive():
    boxes = torch.tensor([[-5.0, -1, 700, 500], [3, 4, 5, 6]])
    assert clip_boxes(boxes, 480, 640).tolist() == [[0, 0, 639, 479], [3, 4, 5, 6]]


@pytest.mark.parametrize('labels', [1, 3, 100000])
def test_nms_equals_loops(labels):
    low = torch.rand(300, 2) * 60
    boxes = torch.cat([low, low + torch.rand(300, 2) * 40], -1).round()
    scores = torch.rand(300)
    labels = torch.randint(labels, (300,))
    kept = class_wise_nms(boxes, scores, labels, 0.6).tolist()
    assert kept == slow_nms(boxes.tolist(), scores.tolist(), labels.tolist(), 0.6)
    assert len(kept) < 300 or labels.max() > 1000


def test_nms_counts_both_border_pixels():
    # 4 and 5 of 5 pixels: IoU 0.8 with inclusive corners, 0.75 without.
    boxes = torch.tensor([[0.0, 0, 4, 0], [0, 0, 3, 0]])
    scores, labels = torch.tensor([0.9, 0.8]), torch.tensor([0, 0])
    assert class_wise_nms(boxes, scores, labels, 0.78).tolist() == [0]
    assert class_wise_nms(boxes, scores, labels, 0.81).tolist() == [0, 1]


def test_nms_of_nothing():
    none = torch.zeros(0)
    assert class_wise_nms(torch.zeros(0, 4), none, none.long(), 0.5).tolist() == []


def test_limit_keeps_ties():
    scores = torch.tensor([0.9, 0.8, 0.5, 0.5, 0.5, 0.4])
    assert best_with_ties(scores, 3).tolist() == [True] * 5 + [False]
    assert best_with_ties(scores, 2).tolist() == [True] * 2 + [False] * 4
    assert best_with_ties(scores, 10).all()
    assert best_with_ties(scores, 0).all()


@pytest.mark.parametrize('limit', [1, 7, 30, 1000])
@pytest.mark.parametrize('shape', [(40, 9), (5, 9), (40, 1), (0, 9), (40, 0)])
def test_best_pairs_equal_a_ranking_of_all(shape, limit):
    torch.manual_seed(0)
    ranks = torch.randn(shape)
    rank, anchor, label = best_pairs(ranks, limit)
    assert rank.tolist() == sorted(ranks.flatten().tolist(), reverse=True)[:limit]
    assert ranks[anchor, label].tolist() == rank.tolist()
