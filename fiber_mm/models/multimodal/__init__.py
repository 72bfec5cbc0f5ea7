"""Models of the coarse stage."""

from .base import FiberMultimodal

__all__ = ['FiberMultimodal']
