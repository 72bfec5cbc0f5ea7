"""Detectors."""

from .fiber_grounder import FiberGrounder

__all__ = ['FiberGrounder']
