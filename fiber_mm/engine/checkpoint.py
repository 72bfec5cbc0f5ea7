"""Checkpoints that survive a kill, and files that cannot run code.

Writing: a checkpoint appears under its name only when all of it is on the disk (temporary file in
the same folder, fsync, rename). Reading: ``torch.load(weights_only=True)`` with the few types that
mmengine's own checkpoints hold, never the fallback to plain pickle of mmengine's loader.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from mmengine.dist import barrier, get_rank
from mmengine.fileio import LocalBackend, register_backend
from mmengine.logging import HistoryBuffer, MMLogger
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

from fiber_mm.convert.io import UNUSED_PREFIX

ATOMIC_BACKEND = 'fiber_atomic'
LAST_CHECKPOINT = 'last_checkpoint'
_TMP_SUFFIX = '.tmp'
# What torch.load raises for one and another kind of damage.
_UNREADABLE = (
    UnpicklingError,
    RuntimeError,
    EOFError,
    OSError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
)
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
        The content; for ``.safetensors`` a dict with ``state_dict``.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: empty, truncated, corrupt, no checkpoint at all, or with pickled objects
            other than tensors, arrays, plain Python values and mmengine's log histories.
    """
    path = Path(filename).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f'there is no checkpoint {path}')
    if path.stat().st_size == 0:
        raise CheckpointError(f'{path} is empty (0 bytes): not a checkpoint')
    if path.suffix == '.safetensors':
        return dict(state_dict=_load_safetensors(path, map_location))

    # A zip file with a missing end is not recognised as one, and its start is no pickle either.
    is_zip = zipfile.is_zipfile(path)
    path.open('rb').close()  # lacking permission is another error than being corrupt
    try:
        with torch.serialization.safe_globals(_safe_globals()):
            content = torch.load(path, map_location=map_location, weights_only=True)
    except _UNREADABLE as error:
        refused = re.search(r'GLOBAL ([^\s(]+)', str(error))
        if refused:
            raise CheckpointError(
                f'{path} holds a pickled object ({refused[1]}) that is neither a tensor nor plain '
                'data, and loading it could run foreign code, so nothing was loaded. If you trust '
                'its origin, load it yourself and save the state dict alone.'
            ) from error
        reason = 'corrupt' if is_zip else 'truncated, corrupt or no checkpoint'
        raise CheckpointError(
            f'{path} ({path.stat().st_size:,} bytes) is {reason}: {_first_line(error)}'
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f'{path} holds a {type(content).__name__}, wanted a dict of tensors or a checkpoint'
        )
    return content


def _load_safetensors(path: Path, map_location: Any) -> dict:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    device = 'cpu' if map_location is None or callable(map_location) else str(map_location)
    try:
        tensors = load_file(path, device=device)
    except SafetensorError as error:
        raise CheckpointError(
            f'{path} ({path.stat().st_size:,} bytes) is truncated, corrupt or no safetensors '
            f'file: {_first_line(error)}'
        ) from error
    # What the converter keeps beside the model's weights for the way back.
    return {key: value for key, value in tensors.items() if not key.startswith(UNUSED_PREFIX)}


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _load_local(filename: str, map_location: Any = None) -> dict:
    return load_checkpoint_file(filename, map_location=map_location)


def _load_http(filename: str, map_location: Any = None, **_: Any) -> dict:
    """Download once per machine (to torch hub's cache), then read safely."""
    folder = Path(torch.hub.get_dir()) / 'checkpoints'
    path = folder / filename.rsplit('/', 1)[-1].split('?')[0]
    if get_rank() == 0 and not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(filename, str(path), progress=False)
    barrier()
    return load_checkpoint_file(path, map_location=map_location)


@contextlib.contextmanager
def safe_checkpoint_loading() -> Iterator[None]:
    """All of mmengine's checkpoint loading is safe inside this context.

    ``init_cfg=dict(type='Pretrained')``, ``load_from`` and ``DetInferencer(weights=...)`` end in
    mmengine's ``CheckpointLoader``. Its loaders for local files and for http are exchanged for
    ours, and put back on leaving.
    """
    ours = {'': _load_local, 'http://': _load_http, 'https://': _load_http}
    before = {prefix: CheckpointLoader._schemes.get(prefix) for prefix in ours}
    for prefix, loader in ours.items():
        CheckpointLoader.register_scheme(prefix, loader, force=True)
    try:
        yield
    finally:
        for prefix, loader in before.items():
            CheckpointLoader.register_scheme(prefix, loader, force=True)


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
    revise_keys: list[tuple[str, str]] = ((r'^module\.', ''),),
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
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    state = with_state_dict(checkpoint, source)['state_dict']
    renamed = {}
    for key, value in state.items():
        for pattern, replacement in revise_keys:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    try:
        missing, unexpected = model.load_state_dict(renamed, strict=False)
    except RuntimeError as error:
        raise CheckpointError(
            f'{source} does not fit {type(model).__name__}: {error}. Is it a checkpoint of '
            'another model size or family?'
        ) from error
    # Counters of batch norm layers from before they existed.
    missing = [key for key in missing if not key.endswith('num_batches_tracked')]
    problems = []
    if unexpected:
        problems.append(f'{len(unexpected)} unknown: {_shorten(unexpected)}')
    if missing and not allow_missing:
        problems.append(f'{len(missing)} missing: {_shorten(missing)}')
    if problems:
        raise CheckpointError(
            f'the keys of {source} do not fit {type(model).__name__}: {"; ".join(problems)}. '
            'Use the config that the checkpoint was trained with, convert it '
            '(tools/convert_checkpoint.py), or set load_strict=False to take what fits.'
        )
    if missing:
        MMLogger.get_current_instance().info(
            f'{len(missing)} weights are not in {source} and start fresh: {_shorten(missing)}'
        )


def _shorten(names: list[str], limit: int = 8) -> str:
    shown = ', '.join(names[:limit])
    return shown if len(names) <= limit else f'{shown}, ... ({len(names) - limit} more)'
