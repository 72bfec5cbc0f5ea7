"""Checkpoints of the original FIBER, RoBERTa and Swin to ours, and back."""

from fiber_mm.convert.arch import BASE, Arch
from fiber_mm.convert.convert import Converted, Report, detect_family, to_original, to_ours
from fiber_mm.convert.initial import initial_weights
from fiber_mm.convert.io import (
    ConversionError,
    file_hash,
    pick_tensors,
    read_checkpoint,
    torch_load,
    write_checkpoint,
    write_original,
)
from fiber_mm.convert.layout import FAMILIES

__all__ = [
    'BASE',
    'FAMILIES',
    'Arch',
    'ConversionError',
    'Converted',
    'Report',
    'detect_family',
    'file_hash',
    'initial_weights',
    'pick_tensors',
    'read_checkpoint',
    'to_original',
    'to_ours',
    'torch_load',
    'write_checkpoint',
    'write_original',
]
