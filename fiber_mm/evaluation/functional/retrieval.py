"""Ranks and recall of image-text retrieval.

A candidate of another query counts as ahead unless its score is lower: ties, and scores that are
not numbers, are never in one's favour. (The original takes whatever ``topk`` returns first.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def ahead(scores: Tensor, wanted: Tensor, own: Tensor) -> Tensor:
    """Which candidates stand before the wanted one.

    Args:
        scores: (R, C), higher is better.
        wanted: the score to beat, (R, 1) for rows or (1, C) for columns.
        own: (R, C) bool, candidates that are right themselves and so never in the way.

    Returns:
        (R, C) bool.
    """
    return ~(scores < wanted) & ~own


def best_ranks(scores: Tensor, own: Tensor) -> Tensor:
    """Rank of the best right candidate of each row.

    Args:
        scores: (R, C), higher is better.
        own: (R, C) bool, the right candidates: several captions of an image, say.

    Returns:
        (R,) int64 from 1 on; C + 1 - (number of right ones) at worst, and so for a row without any.
    """
    best = scores.masked_fill(~own, -torch.inf).amax(1, keepdim=True)
    return 1 + ahead(scores, best, own).sum(1)


def reranked(scores: Tensor, own: Tensor, before: Tensor) -> Tensor:
    """Ranks after some candidates of each row, the first ones so far, got new scores.

    Args:
        scores: (R, K) of the K candidates.
        own: (R, K) bool, which of them are right.
        before: (R,) ranks among all candidates; they stand where no right one is among the K.

    Returns:
        (R,) int64.
    """
    return torch.where(own.any(1), best_ranks(scores, own), before)


def recall_at(ranks: np.ndarray, topk: Sequence[int]) -> dict[int, float]:
    """Share of queries whose rank is at most k, in [0, 1], for each k.

    Args:
        ranks: (Q,) from 1 on, Q at least 1.
        topk: values of k.
    """
    ranks = np.asarray(ranks)
    return {k: float((ranks <= k).mean()) for k in topk}
