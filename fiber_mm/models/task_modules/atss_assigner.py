"""Adaptive training sample selection (Zhang et al., ATSS) on whole batches, without loops."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# A centre must lie inside of the box by more than this many pixels.
MIN_INSIDE = 0.01


class Assignment(NamedTuple):
    """Which box each anchor learns."""

    positive: Tensor  # (B, A) bool
    matched: Tensor  # (B, A) int64 index of the box; meaningless where not positive


def inclusive_iou(anchors: Tensor, boxes: Tensor) -> Tensor:
    """IoU of all pairs, sides counted as ``x2 - x1 + 1``.

    Args:
        anchors: (A, 4) xyxy.
        boxes: (B, G, 4) xyxy.

    Returns:
        (B, A, G).
    """
    anchors, boxes = anchors[None, :, None], boxes[:, None]
    low = torch.maximum(anchors[..., :2], boxes[..., :2])
    high = torch.minimum(anchors[..., 2:], boxes[..., 2:])
    common = (high - low + 1).clamp(min=0).prod(-1)
    area, box_area = ((b[..., 2:] - b[..., :2] + 1).prod(-1) for b in (anchors, boxes))
    return common / (area + box_area - common)


def atss_assign(
    anchors: Tensor, level_sizes: Sequence[int], boxes: Tensor, valid: Tensor, topk: int = 9
) -> Assignment:
    """Assign boxes to anchors.

    Candidates of a box are the ``topk`` anchors of each level whose centres are nearest to its
    own. Those with an IoU of at least mean + (unbiased) standard deviation over the candidates,
    and whose centre lies inside of the box, become positive. An anchor that several boxes want
    goes to the one of highest IoU.

    Args:
        anchors: (A, 4) inclusive corners xyxy, all levels one after the other.
        level_sizes: Number of anchors of each level.
        boxes: (B, G, 4) inclusive corners xyxy, padded.
        valid: (B, G) bool; False marks padding.
        topk: Candidates per level.

    Returns:
        The assignment of every anchor.
    """
    iou = inclusive_iou(anchors, boxes)
    anchor_centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    distance = (anchor_centres[None, :, None] - centres[:, None]).pow(2).sum(-1).sqrt()

    candidates, start = [], 0
    for part in distance.split(list(level_sizes), dim=1):
        nearest = part.topk(min(topk, part.shape[1]), dim=1, largest=False).indices
        candidates.append(nearest + start)
        start += part.shape[1]
    candidates = torch.cat(candidates, dim=1)  # (B, K, G)

    candidate_iou = iou.gather(1, candidates)
    threshold = candidate_iou.mean(1, keepdim=True) + candidate_iou.std(1, keepdim=True)
    points = anchor_centres[candidates]  # (B, K, G, 2)
    margins = torch.cat([points - boxes[:, None, :, :2], boxes[:, None, :, 2:] - points], dim=-1)
    chosen = (candidate_iou >= threshold) & (margins.amin(-1) > MIN_INSIDE) & valid[:, None]

    claims = torch.full_like(iou, -1).scatter(1, candidates, candidate_iou.where(chosen, -1))
    best, matched = claims.max(-1)
    return Assignment(best >= 0, matched)
