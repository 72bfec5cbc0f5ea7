"""Test-time augmentation."""

from .det_tta import FiberDetTTAModel

__all__ = ['FiberDetTTAModel']
