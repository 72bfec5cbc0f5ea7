"""Several data sets as one, with one pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmdet.datasets import ConcatDataset
from mmengine.dataset import BaseDataset

from fiber_mm.registry import DATASETS


@DATASETS.register_module()
class FiberConcatDataset(ConcatDataset):
    """mmdet's ``ConcatDataset`` whose parts share a pipeline.

    The pipeline stands where mmdet's ``DetInferencer`` and test-time augmentation look for it.

    Args:
        datasets: Configs of the parts (or data sets, which have their own pipeline).
        pipeline: Of the parts that have none.
        **kwargs: For mmdet's ``ConcatDataset``.
    """

    def __init__(
        self, datasets: Sequence[dict | BaseDataset], pipeline: Sequence[dict] = (), **kwargs: Any
    ) -> None:
        parts = [
            dict(part, pipeline=part.get('pipeline', pipeline)) if isinstance(part, dict) else part
            for part in datasets
        ]
        super().__init__(parts, **kwargs)
