"""Models of the coarse stage."""

from .base import FiberMultimodal
from .heatmap import FiberHeatmapModel
from .pretrain import FiberPretrain
from .retrieval import FiberRetrieval

__all__ = ['FiberHeatmapModel', 'FiberMultimodal', 'FiberPretrain', 'FiberRetrieval']
