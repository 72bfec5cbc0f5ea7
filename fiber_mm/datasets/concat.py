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
        pipeline: Of the parts that have none, and that do not wrap another data set.
        lazy_init: Whether the parts' annotations are read when they are first asked for only
            (``DetInferencer`` asks for none).
        **kwargs: For mmdet's ``ConcatDataset``.
    """

    def __init__(
        self,
        datasets: Sequence[dict | BaseDataset],
        pipeline: Sequence[dict] = (),
        lazy_init: bool = False,
        **kwargs: Any,
    ) -> None:
        shared: dict[str, Any] = dict(pipeline=pipeline) if pipeline else {}
        if lazy_init:
            shared['lazy_init'] = True
        parts = [
            {**shared, **part} if isinstance(part, dict) and not _wraps(part) else part
            for part in datasets
        ]
        super().__init__(parts, lazy_init=lazy_init, **kwargs)


def _wraps(part: dict) -> bool:
    return 'dataset' in part or 'datasets' in part
