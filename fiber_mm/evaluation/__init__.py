"""Evaluation: pure scoring functions, and metrics over them."""

from . import functional, metrics

__all__ = ['functional', 'metrics']
