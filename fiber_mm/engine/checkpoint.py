"""Checkpoints that survive a kill, and files that cannot run code.

Writing: a checkpoint appears under its name only when all of it is on the disk (temporary file in
the same folder, fsync, rename). Reading: ``torch.load(weights_only=True)`` with the few types that
mmengine's own checkpoints hold, never the fallback to plain pickle of mmengine's loader. Importing
this module makes mmengine's ``CheckpointLoader`` read that way, too.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from mmengine.dist import barrier, get_rank, is_distributed
from mmengine.fileio import LocalBackend, register_backend
from mmengine.logging import HistoryBuffer, MMLogger
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

from fiber_mm.convert.io import ConversionError, read_checkpoint

ATOMIC_BACKEND = 'fiber_atomic'
LAST_CHECKPOINT = 'last_checkpoint'
_TMP_SUFFIX = '.tmp'
_OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written, read or used; the message names the file."""


# -- writing ---------------------------------------------------------------------------------------


def write_atomic(path: str | Path, data: bytes) -> None:
    """Write a file so that a kill at any moment leaves the old content or the new, never a part.

    Args:
        path: the file; its folder is made if missing.
        data: the whole content.

    Raises:
        CheckpointError: the disk is full or the quota is used up. What was there is untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # One fixed name per file: what a kill leaves behind is overwritten by the next attempt.
    tmp = path.with_name(f'.{path.name}{_TMP_SUFFIX}')
    try:
        with open(tmp, 'wb') as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(tmp, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            tmp.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _OUT_OF_SPACE:
            free = shutil.disk_usage(path.parent).free
            raise CheckpointError(
                f'cannot write {path}: {error.strerror} ({len(data) / 2**20:.1f} MiB needed, '
                f'{free / 2**20:.1f} MiB free). Files written before are untouched: make room '
                'and resume.'
            ) from error
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable; some file systems refuse to sync a folder."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@register_backend(ATOMIC_BACKEND)
class AtomicLocalBackend(LocalBackend):
    """Local files, written with :func:`write_atomic`.

    ``CheckpointHook(backend_args=dict(backend='fiber_atomic'))`` uses it in any runner.
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes; see :func:`write_atomic`."""
        write_atomic(filepath, obj)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """Write text; see :func:`write_atomic`."""
        write_atomic(filepath, obj.encode(encoding))


def remove_stale_files(folder: str | Path) -> list[Path]:
    """Remove what killed writers left in a folder.

    Returns:
        The files that were removed.
    """
    stale = [p for p in Path(folder).glob(f'.*{_TMP_SUFFIX}') if p.is_file()]
    for path in stale:
        path.unlink(missing_ok=True)
    return stale


def find_last_checkpoint(work_dir: str | Path) -> str | None:
    """The checkpoint that ``work_dir/last_checkpoint`` names.

    A work folder that was moved is still found: a path that is gone is looked for by its name in
    ``work_dir``.

    Returns:
        Path, or None where no checkpoint was ever written.

    Raises:
        CheckpointError: the file is named but exists neither there nor in ``work_dir``.
    """
    record = Path(work_dir) / LAST_CHECKPOINT
    if not record.is_file():
        return None
    named = record.read_text().strip()
    if named:
        for path in (Path(named), Path(work_dir) / Path(named).name):
            if path.is_file():
                return str(path)
    raise CheckpointError(
        f'{record} names {named!r} as the last checkpoint, which does not exist. Resume from '
        'another one (--resume FILE), or delete last_checkpoint to start from the beginning.'
    )


# -- reading ---------------------------------------------------------------------------------------


def _history_statistic(owner: Any, name: str) -> Any:
    """What ``getattr`` may do in a checkpoint: name a statistic of mmengine's log history."""
    if owner is HistoryBuffer and name in ('min', 'max', 'mean', 'current'):
        return getattr(HistoryBuffer, name)
    raise UnpicklingError(f'GLOBAL builtins.getattr({owner!r}, {name!r})')


def _safe_globals() -> list:
    """Types beyond torch's own that mmengine writes: log histories and NumPy arrays."""
    multiarray = np._core.multiarray if hasattr(np, '_core') else np.core.multiarray
    allowed: list = [HistoryBuffer, np.ndarray, np.dtype]
    allowed.append((_history_statistic, 'builtins.getattr'))
    # NumPy 1 and 2 write the same functions under different names.
    for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):
        allowed.append((multiarray._reconstruct, f'{module}._reconstruct'))
        allowed.append((multiarray.scalar, f'{module}.scalar'))
    # The classes of NumPy's number types; the object type stays out.
    allowed.extend({type(np.dtype(code)) for code in '?bBhHiIlLqQefdSUMm'})
    return allowed


def load_checkpoint_file(filename: str | Path, map_location: Any = 'cpu') -> dict:
    """Read a checkpoint without running anything that it may contain.

    Args:
        filename: local ``.pth``/``.pt``/``.ckpt`` file or ``.safetensors``.
        map_location: as in ``torch.load``.

    Returns:
        The content; for ``.safetensors`` a dict with ``state_dict`` and ``meta``.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: empty, truncated, corrupt, no checkpoint at all, or with pickled objects
            other than tensors, arrays, plain Python values and mmengine's log histories.
    """
    path = Path(filename).expanduser()
    try:
        content = read_checkpoint(path, map_location, _safe_globals(), mmap=False)
    except ConversionError as error:
        raise CheckpointError(str(error)) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f'{path} holds a {type(content).__name__}, wanted a dict of tensors or a checkpoint'
        )
    return content


def _load_local(filename: str, map_location: Any = None) -> dict:
    return load_checkpoint_file(filename, map_location=map_location)


def _load_http(filename: str, map_location: Any = None, **_: Any) -> dict:
    """Download once per machine (to torch hub's cache), then read safely."""
    folder = Path(torch.hub.get_dir()) / 'checkpoints'
    name = filename.rsplit('/', 1)[-1].split('?')[0]
    # With a hash in it, as mmdet's have (and no date), it is unique.
    if not re.search(r'-(?=\d*[a-f])[0-9a-f]{8,}\.', name):
        name = f'{hashlib.sha256(filename.encode()).hexdigest()[:12]}-{name}'
    path = folder / name
    local_rank = int(os.environ.get('LOCAL_RANK', get_rank())) if is_distributed() else 0
    if local_rank == 0 and not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(filename, str(path), progress=False)
    barrier()
    return load_checkpoint_file(path, map_location=map_location)


def _load_any(file: Any, map_location: Any = None, **_: Any) -> Any:
    """In place of the function by which mmengine's other schemes (``s3://``, ...) read."""
    if isinstance(file, (str, Path)):
        return load_checkpoint_file(file, map_location=map_location)
    with torch.serialization.safe_globals(_safe_globals()):
        return torch.load(file, map_location=map_location, weights_only=True)


# mmengine's own loaders fall back to plain pickle. `init_cfg=dict(type='Pretrained')`, `load_from`
# in any runner and DetInferencer(weights=...) all come through here.
for _prefix, _loader in {'': _load_local, 'http://': _load_http, 'https://': _load_http}.items():
    CheckpointLoader.register_scheme(_prefix, _loader, force=True)
for _name, _loader in {'_safe_torch_load': _load_any, 'load_from_http': _load_http}.items():
    if hasattr(mmengine_checkpoint, _name):
        setattr(mmengine_checkpoint, _name, _loader)


# -- loading into a model --------------------------------------------------------------------------


def with_state_dict(content: dict, source: str) -> dict:
    """Give a file's content the form of mmengine's checkpoints: weights under ``state_dict``.

    Args:
        content: a checkpoint, or a plain dict of tensors.
        source: file name, for the messages.

    Raises:
        CheckpointError: there are no weights, or they have the form of an original checkpoint.
    """
    if isinstance(content.get('state_dict'), dict):
        return content
    if isinstance(content.get('model'), dict):
        raise CheckpointError(
            f"{source} keeps its weights under 'model', as the original FIBER does: convert it "
            'first with tools/convert_checkpoint.py'
        )
    if content and all(isinstance(value, torch.Tensor) for value in content.values()):
        return dict(state_dict=content)
    raise CheckpointError(
        f"{source} holds no weights: wanted 'state_dict' or tensors, found {_shorten([*content])}"
    )


def load_weights(
    model: nn.Module,
    checkpoint: dict,
    source: str,
    allow_missing: bool = False,
    revise_keys: Sequence[tuple[str, str]] = ((r'^module\.', ''),),
) -> None:
    """Copy a checkpoint's weights into a model, and account for every key.

    Args:
        model: plain, wrapped (DDP) or test-time-augmentation model.
        checkpoint: dict with ``state_dict``, or a state dict.
        source: file name, for the messages.
        allow_missing: whether weights that the checkpoint lacks may start fresh (they are logged).
        revise_keys: (pattern, replacement) pairs applied to the checkpoint's keys.

    Raises:
        CheckpointError: keys that the model does not know, tensors of another shape, or (unless
            ``allow_missing``) weights that the checkpoint lacks. The message lists them.
    """
    model, renamed, faults = _compared(model, checkpoint, source, revise_keys)
    fresh = faults.pop('missing') if allow_missing else []
    refuse(faults, model, source)
    if fresh:
        MMLogger.get_current_instance().info(
            f'{len(fresh)} weights are not in {source} and start fresh: {_shorten(fresh)}'
        )
    model.load_state_dict(renamed, strict=False)


def check_weights(
    model: nn.Module,
    checkpoint: dict,
    source: str,
    allow_missing: bool = False,
    revise_keys: Sequence[tuple[str, str]] = ((r'^module\.', ''),),
) -> None:
    """Raise what :func:`load_weights` would, and load nothing."""
    model, _, faults = _compared(model, checkpoint, source, revise_keys)
    if allow_missing:
        del faults['missing']
    refuse(faults, model, source)


def what_fits(
    model: nn.Module,
    checkpoint: dict,
    source: str,
    revise_keys: Sequence[tuple[str, str]] = ((r'^module\.', ''),),
) -> dict:
    """The checkpoint with those weights alone that fit the model; the others are logged.

    Arguments are those of :func:`load_weights`.
    """
    checkpoint = with_state_dict(checkpoint, source)
    model, renamed, faults = _compared(model, checkpoint, source, revise_keys)
    for what in ('unknown', 'of another shape'):
        if faults[what]:
            MMLogger.get_current_instance().warning(
                f'load_strict=False: {len(faults[what])} weights of {source} are {what} and left '
                f'out: {_shorten(faults[what])}'
            )
    left_out = {*faults['unknown'], *(key.split(':')[0] for key in faults['of another shape'])}
    fitting = {key: value for key, value in renamed.items() if key not in left_out}
    if not fitting:
        raise CheckpointError(
            f'none of the {len(renamed)} weights of {source} fits {type(model).__name__}: is it a '
            'checkpoint of another model?'
        )
    return {**checkpoint, 'state_dict': fitting}


def weight_faults(model: nn.Module, state: Mapping[str, torch.Tensor]) -> dict[str, list[str]]:
    """What does not fit between weights and a model.

    Returns:
        ``unknown`` and ``missing`` keys, and those ``of another shape`` ("key: (2, 3), wanted
        (2, 4)").
    """
    own = model.state_dict()
    return {
        'unknown': [key for key in state if key not in own],
        # Counters of batch norm layers are not there in files from before they existed.
        'missing': [
            key for key in own if key not in state and not key.endswith('num_batches_tracked')
        ],
        'of another shape': [
            f'{key}: {tuple(value.shape)}, wanted {tuple(own[key].shape)}'
            for key, value in state.items()
            if key in own and getattr(value, 'shape', None) != getattr(own[key], 'shape', None)
        ],
    }


def refuse(faults: Mapping[str, list[str]], model: nn.Module, source: str) -> None:
    """Raise a CheckpointError that lists the faults, if there are any."""
    problems = [f'{len(keys)} {what}: {_shorten(keys)}' for what, keys in faults.items() if keys]
    if problems:
        raise CheckpointError(
            f'{source} does not fit {type(model).__name__}: {"; ".join(problems)}. Use the config '
            'that the checkpoint was trained with, convert it (tools/convert_checkpoint.py), or '
            'set load_strict=False to take what fits.'
        )


def _compared(
    model: nn.Module, checkpoint: dict, source: str, revise_keys: Sequence[tuple[str, str]]
) -> tuple[nn.Module, dict[str, torch.Tensor], dict[str, list[str]]]:
    """The model without wrappers, the weights under the keys to load, and what does not fit."""
    model = unwrapped(model)
    renamed = revised(with_state_dict(checkpoint, source)['state_dict'], revise_keys)
    return model, renamed, weight_faults(model, renamed)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside of DDP and test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def revised(
    state: Mapping[str, torch.Tensor], revise_keys: Sequence[tuple[str, str]]
) -> dict[str, torch.Tensor]:
    """Weights under new keys, by (pattern, replacement) pairs."""
    renamed = {}
    for key, value in state.items():
        for pattern, replacement in revise_keys:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    return renamed


def _shorten(names: Sequence[str], limit: int = 8) -> str:
    shown = ', '.join(names[:limit])
    return shown if len(names) <= limit else f'{shown}, ... ({len(names) - limit} more)'
