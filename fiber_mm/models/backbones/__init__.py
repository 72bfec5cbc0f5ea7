"""Backbones."""

from .fiber_backbone import FiberBackbone

__all__ = ['FiberBackbone']
