"""Metrics; importing this package registers them."""

from .coco import FiberCocoMetric
from .grounding import FiberFlickr30kMetric, FiberRefExpMetric
from .heatmap import FiberHeatmapMetric
from .lvis import FiberLVISFixedAPMetric

__all__ = [
    'FiberCocoMetric',
    'FiberFlickr30kMetric',
    'FiberHeatmapMetric',
    'FiberLVISFixedAPMetric',
    'FiberRefExpMetric',
]
