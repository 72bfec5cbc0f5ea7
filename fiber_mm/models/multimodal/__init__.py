"""Models of the coarse stage."""

from .base import FiberMultimodal
from .pretrain import FiberPretrain

__all__ = ['FiberMultimodal', 'FiberPretrain']
