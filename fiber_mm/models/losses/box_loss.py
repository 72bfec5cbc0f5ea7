"""Losses of box regression."""

import torch
from torch import Tensor


def giou_loss(boxes: Tensor, targets: Tensor, eps: float = 1e-7) -> Tensor:
    """1 - generalised IoU (Rezatofighi et al.) of paired boxes.

    Args:
        boxes: (..., 4) xyxy; sides are ``x2 - x1``. A negative side counts as 0.
        targets: (..., 4) xyxy.
        eps: Added to the areas that divide.

    Returns:
        (...), from 0 to 2.
    """
    low, high = boxes[..., :2], torch.maximum(boxes[..., :2], boxes[..., 2:])
    target_low, target_high = targets[..., :2], targets[..., 2:]
    common = (torch.minimum(high, target_high) - torch.maximum(low, target_low)).clamp(min=0)
    common = common.prod(-1)
    union = (high - low).prod(-1) + (target_high - target_low).prod(-1) - common + eps
    hull = torch.maximum(high, target_high) - torch.minimum(low, target_low)
    hull = hull.prod(-1) + eps
    return 1 - common / union + (hull - union) / hull
