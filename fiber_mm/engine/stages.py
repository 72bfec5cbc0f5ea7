"""Weights of one stage for a model of the other: the encoder, and nothing else, is shared.

Models of the coarse stage have it as ``encoder``, detectors as ``backbone.encoder``; windows, and
with them the position-bias tables, may differ in size between any two models.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.logging import MMLogger
from torch import Tensor, nn

from fiber_mm.convert import Report
from fiber_mm.convert.files import log_summary
from fiber_mm.core.window import resize_bias_table, window_of_table

from .checkpoint import weight_faults

_COARSE, _FINE = 'encoder.', 'backbone.encoder.'
_TABLE = 'relative_position_bias_table'


def adapt_to_stage(
    model: nn.Module, state: Mapping[str, Tensor], leave_out: Sequence[str] = ()
) -> dict[str, Tensor]:
    """A checkpoint's weights as a model is to start from them.

    As :func:`match_stage`; what is used, new, resized and dropped is logged, unless all is used
    under its own name.
    """
    found, report = match_stage(model, state, leave_out)
    renamed = any(key != name for key, name in report.used.items())
    if renamed or report.resized or report.dropped:
        log_summary(report)
    return found


def match_stage(
    model: nn.Module, state: Mapping[str, Tensor], leave_out: Sequence[str] = ()
) -> tuple[dict[str, Tensor], Report]:
    """A checkpoint's weights by the names and windows of a model, and what became of each.

    Weights of a model of the other stage are reduced to the encoder and renamed; position-bias
    tables of other windows are resized bicubically. Weights of the same stage with the same windows
    are returned as they are.

    Args:
        model: Without wrappers; may be on the meta device.
        state: Key -> tensor.
        leave_out: Regular expressions (``re.search``) of keys of the model that start fresh.
    """
    own = model.state_dict()
    here, there = _prefix(own), _prefix(state)
    crossed = None not in (here, there) and here != there
    report, found = Report('ours'), {}
    for key, value in state.items():
        name = key
        if crossed:
            name = here + key[len(there) :] if key.startswith(there) else None
            if name not in own:
                report.dropped[key] = 'not in a model of the other stage'
                continue
        if any(re.search(pattern, name) for pattern in leave_out):
            report.dropped[key] = 'left out, starts fresh'
            continue
        if name.endswith(_TABLE) and name in own and len(value) != len(own[name]):
            report.resized[name] = (
                f'window {window_of_table(value)} -> {window_of_table(own[name])}'
            )
            value = resize_bias_table(value, window_of_table(own[name]))
        found[name] = value
        report.used[key] = name
    report.fresh = {name: 'new' for name in own if name not in found}
    return found, report


def resize_tables_on_load(
    encoder: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any
) -> None:
    """A ``load_state_dict`` pre-hook: bring position-bias tables to the windows of an encoder.

    So that ``init_cfg=dict(type='Pretrained', ...)`` starts a model from one with other windows.
    Loading that accounts for every key (``FiberRunner``, ``FiberGrounder``) has refused such
    tables before, where they are not wanted.
    """
    resized = set()
    for name, own in encoder.named_parameters():
        key = prefix + name
        value = state.get(key)
        if name.endswith(_TABLE) and value is not None and len(value) != len(own):
            resized.add(f'{window_of_table(value)} -> {window_of_table(own)}')
            state[key] = resize_bias_table(value, window_of_table(own))
    if resized:
        MMLogger.get_current_instance().info(
            f'position-bias tables are resized, window {", ".join(sorted(resized))}'
        )


def refuse_foreign(model: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """A ``load_state_dict`` pre-hook of what is started by ``init_cfg``.

    mmengine takes what fits and warns of the rest. Keys may be new or left over, since the stages
    differ in some; but an encoder that starts from nothing, or a tensor of another shape, is not
    what was asked for. Parts of a larger model are left to it (``FiberRunner``, ``FiberGrounder``).

    Raises: ValueError: if nothing of the encoder is there, or weights have other shapes.
    """
    if prefix or not state:
        return
    own = model.state_dict()
    if not any(key in own and key.startswith(_COARSE) for key in state):
        hint = 'is it converted (tools/convert_checkpoint.py)?'
        if _prefix(state) == _FINE:
            hint = (
                'it is a detector: start by load_from, which renames its keys, or by init_cfg with '
                f"prefix='{_FINE.removesuffix(_COARSE)}'"
            )
        raise ValueError(
            f'the checkpoint has no weights of an encoder as {type(model).__name__} wants them '
            f'({_COARSE}image.* ...), but {", ".join(list(state)[:3])} ...; {hint}'
        )
    weights = {key: value for key, value in state.items() if not key.endswith(_TABLE)}
    other = weight_faults(model, weights)['of another shape']
    if other:
        raise ValueError(
            f'{len(other)} weights of the checkpoint have other shapes than those of '
            f'{type(model).__name__}: {"; ".join(other[:3])}: give the settings that it was '
            'trained with'
        )


def _prefix(keys: Mapping[str, Any]) -> str | None:
    """Where the encoder is among the keys of a model; None where there is none."""
    for prefix in (_FINE, _COARSE):
        if any(key.startswith((f'{prefix}image.', f'{prefix}text.')) for key in keys):
            return prefix
    return None
