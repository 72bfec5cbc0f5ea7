"""From scored anchors to final boxes."""

import torch
from torch import Tensor
from torchvision.ops import nms


def clip_boxes(boxes: Tensor, height: int, width: int) -> Tensor:
    """Clip inclusive corners (N, 4) to an image of ``height`` x ``width`` pixels."""
    x, y = boxes[:, 0::2].clamp(0, width - 1), boxes[:, 1::2].clamp(0, height - 1)
    return torch.stack([x, y], dim=-1).flatten(1)


def best_pairs(ranks: Tensor, limit: int) -> tuple[Tensor, Tensor, Tensor]:
    """The ``limit`` best of all pairs of anchors and classes.

    They lie in the ``limit`` rows whose best class ranks highest, so that few pairs are left to
    be ranked: on a CPU, selecting from a million takes a tenth of a second.

    Args:
        ranks: (A, C).
        limit: How many are wanted.

    Returns:
        (K,) ranks, best first, with their anchors and their classes; K <= ``limit``.
    """
    count = min(limit, ranks.numel())
    if not count:
        none = torch.zeros(0, dtype=torch.int64, device=ranks.device)
        return ranks.flatten()[:0], none, none
    rows = ranks.amax(1).topk(min(limit, len(ranks))).indices
    rank, best = ranks[rows].flatten().topk(count)
    return rank, rows[best // ranks.shape[1]], best % ranks.shape[1]


def class_wise_nms(boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float) -> Tensor:
    """Suppress boxes that overlap a better one of the same label.

    Args:
        boxes: (N, 4) inclusive corners xyxy, none negative.
        scores: (N,).
        labels: (N,) integers, none negative.
        iou_threshold: A larger IoU (sides counted as ``x2 - x1 + 1``) suppresses.

    Returns:
        (M,) indices, best first.
    """
    # Labels are moved apart; in double precision this does not disturb any IoU.
    boxes = boxes.double()
    boxes = torch.cat([boxes[:, :2], boxes[:, 2:] + 1], dim=-1)
    if len(boxes):
        boxes = boxes + (labels * (boxes.max() + 1))[:, None]
    return nms(boxes, scores.double(), iou_threshold)


def best_with_ties(scores: Tensor, limit: int) -> Tensor:
    """Mask of the ``limit`` best of descending scores (N,), and of all that equal the last."""
    if limit <= 0 or len(scores) <= limit:
        return torch.ones_like(scores, dtype=torch.bool)
    return scores >= scores[limit - 1]
