"""Detection heads."""

from .fiber_atss_head import FiberATSSHead, HeadOutputs

__all__ = ['FiberATSSHead', 'HeadOutputs']
