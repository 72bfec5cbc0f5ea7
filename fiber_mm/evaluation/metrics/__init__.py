"""Metrics; importing this package registers them."""

from .coco import FiberCocoMetric
from .grounding import FiberFlickr30kMetric, FiberRefExpMetric
from .heatmap import FiberHeatmapMetric
from .lvis import FiberLVISFixedAPMetric
from .retrieval import FiberRetrievalRecall

__all__ = [
    'FiberCocoMetric',
    'FiberFlickr30kMetric',
    'FiberHeatmapMetric',
    'FiberLVISFixedAPMetric',
    'FiberRefExpMetric',
    'FiberRetrievalRecall',
]
