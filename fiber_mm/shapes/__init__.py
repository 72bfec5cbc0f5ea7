"""Shapes: a generated toy twin of the detection and grounding benchmarks, in their formats."""

from .generate import ensure_shapes, generate_shapes, make_scene, read_meta
from .preview import contact_sheet

__all__ = ['contact_sheet', 'ensure_shapes', 'generate_shapes', 'make_scene', 'read_meta']
