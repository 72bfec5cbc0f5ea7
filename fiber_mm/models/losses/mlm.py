"""Masked language modelling."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def masked_token_loss(logits: Tensor, labels: Tensor, count: Tensor | float) -> Tensor:
    """Cross-entropy of the hidden words, summed and divided by ``count``.

    Args:
        logits: (M, V), of the hidden words only.
        labels: (M,) int64.
        count: What to divide by: the number of hidden words, or its mean over the ranks, so that
            every word counts the same wherever it is. A batch without hidden words gives 0.

    Returns:
        Scalar in fp32.
    """
    with torch.autocast(logits.device.type, enabled=False):
        total = F.cross_entropy(logits.float(), labels, reduction='sum')
        return total / (count.clamp(min=1) if isinstance(count, Tensor) else max(count, 1))
