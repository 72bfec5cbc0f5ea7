"""Conversion from file to file, and its summary for people."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.logging import MMLogger
from rich.console import Console
from rich.table import Table
from torch import Tensor

from fiber_mm.convert.convert import Converted, Report, resolve_family, to_original, to_ours
from fiber_mm.convert.initial import initial_weights
from fiber_mm.convert.io import (
    UNUSED,
    ConversionError,
    file_hash,
    pick_tensors,
    read_checkpoint,
    write_checkpoint,
    write_original,
)
from fiber_mm.convert.layout import FAMILIES
from fiber_mm.version import __version__


def convert_file(
    source: os.PathLike,
    target: os.PathLike,
    family: str = 'auto',
    to: str = 'ours',
    init: str | None = None,
    more: Sequence[os.PathLike] = (),
    window: int | None = None,
    ema: bool = False,
    any_size: bool = False,
    ignore: Sequence[str] = (),
) -> Converted:
    """Convert a checkpoint file.

    Args:
        source: original FIBER, ours, RoBERTa or Swin; `.pth`, `.ckpt`, `.bin`, `.safetensors`.
        target: file to write; `.safetensors` or anything that `torch.save` writes.
        family: kind of the source, or of the target for `to='original'`; `'auto'` looks at the
            keys.
        to: `'ours'` or `'original'`.
        init: family of the model to start from the source (see :func:`initial_weights`); None
            converts the source as what it is. RoBERTa and Swin always start an encoder.
        more: further sources of initial weights.
        window: window side of the model to start; with initial weights only.
        ema: take the moving average of the weights.
        any_size: accept other sizes than FIBER-Base.
        ignore: regular expressions of keys that may be missing or unknown.

    Returns:
        What was written, with the report.

    Raises:
        ConversionError: the source is not what it should be; nothing is written.
        OSError: a file cannot be read or written; `target` is as it was before.
    """
    if to not in ('ours', 'original'):
        raise ConversionError(f"unknown direction {to!r}; known are 'ours' and 'original'")
    if to == 'original' and (init or more or window is not None):
        raise ConversionError('initial weights are written in our layout only')
    checkpoint = read_checkpoint(source)
    state = pick_tensors(checkpoint, ema, str(source))
    arch = 'infer' if any_size else None
    if to == 'original':
        unused = checkpoint.get(UNUSED, {})
        if family == 'auto':
            meta = checkpoint.get('meta')
            family = meta.get('family', 'auto') if isinstance(meta, dict) else 'auto'
        result = to_original(_trained_tensors(state), unused, family, ignore)
        write_original(target, FAMILIES[result.report.family].container, result.state_dict)
        return result

    seen = resolve_family(state, family)
    starts = bool(init or more or seen in ('roberta', 'swin'))
    if window is not None and not starts:
        raise ConversionError(
            f'a window side ({window}) belongs to initial weights: name the family of the model to '
            'start (--init), or leave --window out'
        )
    if not starts:
        result = to_ours(state, family, arch, ignore)
    else:
        states = [state, *(pick_tensors(read_checkpoint(path), ema, str(path)) for path in more)]
        result = initial_weights(states, init or 'encoder', window, arch, ignore)
    result.meta |= {
        'fiber_mm_version': __version__,
        'sources': [
            {'name': Path(path).name, 'sha256': file_hash(path)} for path in (source, *more)
        ],
    }
    write_checkpoint(target, result.state_dict, result.meta, result.unused)
    return result


def _trained_tensors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without what a trained model of ours stores beside its parameters."""
    return {key: value for key, value in state.items() if not key.startswith('data_preprocessor.')}


def _patterns(keys: dict[str, str]) -> dict[tuple[str, str], int]:
    """(key with `N` for every index, reason) -> number of keys."""
    counts: dict[tuple[str, str], int] = {}
    for key, reason in keys.items():
        at = (re.sub(r'\.\d+(?=\.|$)', '.N', key), reason)
        counts[at] = counts.get(at, 0) + 1
    return counts


def summary(report: Report) -> Table:
    """The report as a table: used keys as a number, all others by pattern with the reason."""
    table = Table(title=f'family {report.family}', title_justify='left')
    for column in ('what', 'keys', 'key (N: index)', 'reason'):
        table.add_column(column, justify='right' if column == 'keys' else 'left', overflow='fold')
    table.add_row('used', str(len(report.used)), '', '')
    for name in ('resized', 'kept', 'dropped', 'fresh'):
        for (pattern, reason), count in _patterns(getattr(report, name)).items():
            table.add_row(name, str(count), pattern, reason)
    return table


def log_summary(report: Report) -> None:
    """Write the table to the log."""
    console = Console(width=140)
    with console.capture() as capture:
        console.print(summary(report))
    MMLogger.get_current_instance().info('\n' + capture.get().rstrip())


def count_parameters(tensors: dict[str, Tensor]) -> int:
    """Number of values in floating-point tensors."""
    return sum(value.numel() for value in tensors.values() if torch.is_floating_point(value))
