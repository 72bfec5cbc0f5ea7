"""Recall of image-text retrieval."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric

from fiber_mm.registry import METRICS

from ..functional.retrieval import recall_at

#: Query is an image (texts are retrieved), query is a text (images are retrieved).
DIRECTIONS = ('TR', 'IR')


@METRICS.register_module()
class FiberRetrievalRecall(BaseMetric):
    """Recall@k of text retrieval (TR: an image looks for its captions, any of which counts) and of
    image retrieval (IR: a caption looks for its image).

    Works on ranks, which the retrieval loops find; mmpretrain's ``RetrievalRecall`` wants all
    scores of a query in memory.

    Results: ``{protocol}/TR@k``, ``{protocol}/IR@k`` in [0, 1], and ``{protocol}/mean_recall``,
    their mean.

    Args:
        topk: Values of k.
        **kwargs: As in mmengine's metrics.
    """

    def __init__(self, topk: Sequence[int] | int = (1, 5, 10), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.topk = (topk,) if isinstance(topk, int) else tuple(topk)
        if not self.topk or min(self.topk) < 1:
            raise ValueError(f'topk must be one or more positive numbers, got {topk}')

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Take up queries.

        Args:
            data_batch: not used.
            data_samples: each with ``protocol`` (str), ``direction`` ('TR' or 'IR') and ``rank``,
                the place of the right answer, from 1 on.
        """
        for sample in data_samples:
            absent = [key for key in ('protocol', 'direction', 'rank') if key not in sample]
            if absent:
                raise KeyError(
                    f'FiberRetrievalRecall: a sample has no {absent}: use it with '
                    'FiberRetrievalValLoop or FiberRetrievalTestLoop'
                )
            self.results.append((sample['protocol'], sample['direction'], int(sample['rank'])))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Recalls by protocol and direction."""
        ranks: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for protocol, direction, rank in results:
            ranks[protocol][direction].append(rank)
        metrics = {}
        for protocol, of_direction in ranks.items():
            found = {
                f'{protocol}/{direction}@{k}': recall
                for direction in DIRECTIONS
                if direction in of_direction
                for k, recall in recall_at(of_direction[direction], self.topk).items()
            }
            metrics |= found
            metrics[f'{protocol}/mean_recall'] = float(np.mean(list(found.values())))
        return metrics
