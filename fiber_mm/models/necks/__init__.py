"""Necks."""

from .fiber_fpn import FiberFPN

__all__ = ['FiberFPN']
