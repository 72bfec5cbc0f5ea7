"""Image-text matching with hard negatives (FIBER, section 3.2; ALBEF, section 3.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

#: Added to every weight by the original, so that no row is all zero.
WEIGHT_FLOOR = 1e-9


def negative_weights(similarity: Tensor, own: Tensor) -> Tensor:
    """Probabilities, up to their sum, with which candidates are drawn as hard negatives.

    Args:
        similarity: (B, C) to all candidates, divided by the temperature.
        own: (B,) int64, the candidate that is the sample's own partner.

    Returns:
        (B, C) fp32: the softmax with the own partner zeroed, plus 1e-9.
    """
    weights = similarity.detach().float().softmax(1)
    return weights.scatter(1, own[:, None], 0.0) + WEIGHT_FLOOR


def draw(weights: Tensor, uniform: Tensor) -> Tensor:
    """One candidate per row, by inverting the cumulative sum.

    Args:
        weights: (B, C), not negative, each row with a positive sum.
        uniform: (B,) random numbers in [0, 1).

    Returns:
        (B,) int64.
    """
    # In whole numbers: the sum of floats on a GPU is another in each run, and an error where torch
    # is told to be deterministic. 2^40 keeps the least weight, 1e-9, and 4 million candidates.
    shares = weights / weights.amax(1, keepdim=True)
    sums = (shares.double() * 2**40).long().cumsum(1)
    place = torch.searchsorted(sums, (uniform[:, None] * sums[:, -1:].double()).long(), right=True)
    return place[:, 0]


def matching_loss(logits: Tensor, match: Tensor | int) -> Tensor:
    """Mean two-way cross-entropy.

    Args:
        logits: (N, 2), class 1 for a match.
        match: (N,) bool, which rows match; or how many, if they are the first.

    Returns:
        Scalar in fp32.
    """
    if isinstance(match, int):
        match = torch.arange(len(logits), device=logits.device) < match
    with torch.autocast(logits.device.type, enabled=False):
        return F.cross_entropy(logits.float(), match.long())
