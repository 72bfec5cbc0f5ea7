"""Models of the coarse stage."""

from .base import FiberMultimodal
from .heatmap import FiberHeatmapModel
from .pretrain import FiberPretrain

__all__ = ['FiberHeatmapModel', 'FiberMultimodal', 'FiberPretrain']
