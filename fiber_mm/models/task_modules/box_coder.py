"""Box coding of GLIP and FIBER: corners are inclusive, so a side is ``x2 - x1 + 1`` pixels."""

import math

import torch
from torch import Tensor

CENTRE_WEIGHT = 10.0
SIDE_WEIGHT = 5.0
# Sides grow at most by 1000 / 16, else exp may overflow; shrinking is not limited.
MAX_LOG_SCALE = math.log(1000.0 / 16)


def _centres_and_sides(boxes: Tensor) -> tuple[Tensor, Tensor]:
    low, high = boxes[..., :2], boxes[..., 2:]
    return (low + high) / 2, high - low + 1


def encode_boxes(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Deltas that turn anchors into boxes.

    Args:
        boxes: (..., 4) inclusive corners xyxy.
        anchors: (..., 4) inclusive corners xyxy.

    Returns:
        (..., 4): dx, dy, dw, dh, weighted.
    """
    centres, sides = _centres_and_sides(boxes)
    anchor_centres, anchor_sides = _centres_and_sides(anchors)
    shift = CENTRE_WEIGHT * (centres - anchor_centres) / anchor_sides
    return torch.cat([shift, SIDE_WEIGHT * (sides / anchor_sides).log()], dim=-1)


def decode_boxes(deltas: Tensor, anchors: Tensor) -> Tensor:
    """Inverse of :func:`encode_boxes`.

    Args:
        deltas: (..., 4) weighted deltas.
        anchors: (..., 4) inclusive corners xyxy.

    Returns:
        (..., 4) inclusive corners xyxy, not clipped.
    """
    anchor_centres, anchor_sides = _centres_and_sides(anchors)
    centres = deltas[..., :2] / CENTRE_WEIGHT * anchor_sides + anchor_centres
    sides = (deltas[..., 2:] / SIDE_WEIGHT).clamp(max=MAX_LOG_SCALE).exp() * anchor_sides
    reach = (sides - 1) / 2
    return torch.cat([centres - reach, centres + reach], dim=-1)
