"""Reading checkpoints without running what they contain, writing them whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import struct
import tempfile
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

UNUSED = 'unused'
UNUSED_PREFIX = f'{UNUSED}/'
_META_KEY = 'fiber_mm'


class ConversionError(ValueError):
    """A checkpoint that is not what it should be; the message says how."""


class _Inert:
    """Stands for an object of a known harmless class; holds nothing and does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _InertDict:
    """Stands for an object of a known harmless subclass of dict."""

    def __new__(cls, *args: Any, **kwargs: Any) -> OrderedDict:
        return OrderedDict()


class _InertList:
    """Stands for an object of a known harmless subclass of list."""

    def __new__(cls, *args: Any, **kwargs: Any) -> list:
        return []


# Classes and functions that Lightning, sacred and MMEngine leave in their checkpoints beside
# the weights. They are neither imported nor called: each name is bound to a stand-in.
_STAND_INS = {
    _InertDict: [
        'pytorch_lightning.utilities.parsing.AttributeDict',
        'lightning_fabric.utilities.data.AttributeDict',
        'sacred.config.custom_containers.ReadOnlyDict',
        'sacred.config.custom_containers.DogmaticDict',
        'mmengine.config.config.ConfigDict',
    ],
    _InertList: [
        'sacred.config.custom_containers.ReadOnlyList',
        'sacred.config.custom_containers.DogmaticList',
    ],
    _Inert: [
        'argparse.Namespace',
        'pathlib.PosixPath',
        'pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint',
        'pytorch_lightning.callbacks.lr_monitor.LearningRateMonitor',
        'pytorch_lightning.callbacks.early_stopping.EarlyStopping',
        'pytorch_lightning.callbacks.progress.ProgressBar',
        'mmengine.logging.history_buffer.HistoryBuffer',
        'mmengine.logging.message_hub.MessageHub',
        '_codecs.encode',
        'builtins.getattr',
        'numpy.core.multiarray._reconstruct',
        'numpy.core.multiarray.scalar',
        'numpy._core.multiarray._reconstruct',
        'numpy._core.multiarray.scalar',
        'numpy.ndarray',
        'numpy.dtype',
        *(
            f'numpy.dtypes.{name}DType'
            for name in ('Bool', 'Int32', 'Int64', 'Float32', 'Float64', 'Object', 'Str')
        ),
    ],
}


# What `weights_only` says of objects that it does not know, unlike of damaged files.
_FOREIGN = r'(GLOBAL|blocked|Trying to call|Can only|persistent)'

# What a damaged pickle or archive makes `torch.load` raise.
_READ_ERRORS = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    struct.error,
    OSError,
    zipfile.BadZipFile,
)


#: Objects, or (object, name) pairs, that `torch.serialization.safe_globals` takes.
Allowed = Sequence[Any]


def _stand_ins() -> Allowed:
    return [(stand_in, name) for stand_in, names in _STAND_INS.items() for name in names]


def _foreign_objects(path: Path) -> list[str]:
    """Names of the classes and functions in a checkpoint that are not known to be harmless."""
    names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    known = {name for names in _STAND_INS.values() for name in names}
    return sorted(set(names) - known)


def _is_of_lightning(path: Path) -> bool:
    """Whether it holds what the original's coarse checkpoints do."""
    names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    return any(re.match(r'argparse|pytorch_lightning|lightning_fabric|sacred', n) for n in names)


def torch_load(
    path: os.PathLike, map_location: Any = 'cpu', allowed: Allowed | None = None, mmap: bool = True
) -> Any:
    """`torch.load` that refuses foreign Python objects.

    Args:
        path: the file.
        map_location: as in `torch.load`.
        allowed: what the file may hold beside tensors and plain values; by default what other
            programs leave there, replaced by empty stand-ins.
        mmap: map the tensors into memory instead of reading them.

    Raises:
        FileNotFoundError: there is no such file.
        ConversionError: the file is empty, truncated, not a torch file, or holds objects that
            could run code; nothing of it has been run.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'there is no checkpoint {path}')
    if path.stat().st_size == 0:
        raise ConversionError(f'{path} is empty (0 bytes); copy or download it again')
    path.open('rb').close()  # lacking permission is another error than being damaged
    zipped = zipfile.is_zipfile(path)
    try:
        with torch.serialization.safe_globals(_stand_ins() if allowed is None else list(allowed)):
            # Queues of up to 7 GB are never read when the file is mapped.
            return torch.load(
                path, map_location=map_location, weights_only=True, mmap=mmap and zipped
            )
    except _READ_ERRORS as err:
        reason = _reason(err)
        if isinstance(err, pickle.UnpicklingError) and re.search(_FOREIGN, reason):
            foreign = _foreign_objects(path) if zipped else []
            if zipped and not foreign and _is_of_lightning(path):
                raise ConversionError(
                    f'{path} was refused: beside tensors it holds Python objects, as checkpoints '
                    'of the original do: convert it first (tools/convert_checkpoint.py SRC DST)'
                ) from err
            what = f' ({", ".join(foreign)})' if foreign else ''
            raise ConversionError(
                f'{path} was refused: besides tensors it holds Python objects{what} that could '
                'run code when loaded, so nothing of it was run. If you trust the file, load it '
                "where it was made and save the tensors alone: torch.save({'state_dict': ...}). "
                f'Reason: {reason}'
            ) from err
        raise ConversionError(
            f'{path} ({path.stat().st_size:,} bytes) cannot be read as a torch checkpoint; it '
            f'is truncated, damaged or of another kind. Reason: {reason}'
        ) from err


def _reason(err: Exception) -> str:
    """The one telling sentence of torch's page-long messages."""
    if isinstance(err, LookupError):
        return repr(err)
    text = str(err).split('WeightsUnpickler error: ')[-1]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith('Weights only load failed')] or lines
    return lines[0].split('. Please use')[0] if lines else type(err).__name__


def read_safetensors(path: os.PathLike) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and string metadata of a safetensors file.

    Raises:
        FileNotFoundError: there is no such file.
        ConversionError: the file is empty, truncated or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'there is no checkpoint {path}')
    if path.stat().st_size == 0:
        raise ConversionError(f'{path} is empty (0 bytes); copy or download it again')
    try:
        with safe_open(path, framework='pt', device='cpu') as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as err:
        raise ConversionError(
            f'{path} ({path.stat().st_size:,} bytes) cannot be read as a safetensors file; it '
            f'is truncated or damaged. Reason: {err}'
        ) from err


def read_checkpoint(
    path: os.PathLike, map_location: Any = 'cpu', allowed: Allowed | None = None, mmap: bool = True
) -> dict[str, Any]:
    """A checkpoint file of either format as the dictionary that it holds.

    For our own safetensors files the result has the same keys as for our `.pth` files:
    `state_dict`, `meta`, `unused`; their tensors come to the CPU.

    Arguments and errors are those of :func:`torch_load`.
    """
    if Path(path).suffix != '.safetensors':
        return torch_load(path, map_location, allowed, mmap)
    tensors, metadata = read_safetensors(path)
    checkpoint: dict[str, Any] = {
        'state_dict': {k: v for k, v in tensors.items() if not k.startswith(UNUSED_PREFIX)},
        'meta': json.loads(metadata.get(_META_KEY, '{}')),
    }
    unused = {k[len(UNUSED_PREFIX) :]: v for k, v in tensors.items() if k.startswith(UNUSED_PREFIX)}
    return checkpoint | ({UNUSED: unused} if unused else {})


def pick_tensors(
    checkpoint: Any, ema: bool = False, source: str = 'the checkpoint'
) -> dict[str, Tensor]:
    """The tensors of a checkpoint, out of the container that holds them.

    Args:
        checkpoint: what the file holds: `state_dict` (Lightning, MMEngine), `model` (the fine
            stage, Swin) or the tensors themselves.
        ema: take the moving average of the weights: `model_ema`. In MMEngine's files it is the
            `state_dict` already, since its EMA hook exchanges the two on saving; `ema_state_dict`
            holds the weights without averaging.
        source: name of the file, for errors.

    Returns:
        key -> tensor, without `module.` where every key begins with it.

    Raises:
        ConversionError: there is no such container, or it holds something else than tensors.
    """
    if not isinstance(checkpoint, Mapping):
        raise ConversionError(
            f'{source} holds a {type(checkpoint).__name__}, wanted a dictionary '
            'of tensors or of containers (state_dict, model)'
        )
    names = ('model_ema',) if ema else ('state_dict', 'model')
    if isinstance(checkpoint.get('ema_state_dict'), Mapping):
        names = ('state_dict',)
        print_log(
            f"{source}: 'state_dict' is the moving average, which MMEngine's EMA hook exchanges "
            "with the weights on saving; the weights themselves, in 'ema_state_dict', are left out",
            'current',
        )
    held = [name for name in names if isinstance(checkpoint.get(name), Mapping)]
    if held:
        state, where = checkpoint[held[0]], f'{source}[{held[0]!r}]'
    elif ema:
        raise ConversionError(
            f'{source} has no moving average ({" or ".join(names)}); its '
            f'top-level keys are {_some(checkpoint)}'
        )
    else:
        state, where = checkpoint, source
    other = [key for key, value in state.items() if not isinstance(value, Tensor)]
    if other or not state:
        found = f'{len(other)} entries that are no tensors: {_some(other)}' if other else 'nothing'
        raise ConversionError(
            f'{where}: wanted tensors only (or a container {" or ".join(names)}), found {found}'
        )
    if all(key.startswith('module.') for key in state):
        state = {key[len('module.') :]: value for key, value in state.items()}
    return dict(state)


def _some(keys: Any, limit: int = 8) -> str:
    keys = [str(key) for key in keys]
    more = f', ... ({len(keys)} in all)' if len(keys) > limit else ''
    return ', '.join(keys[:limit]) + more


def file_hash(path: os.PathLike) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def write_checkpoint(
    path: os.PathLike,
    state_dict: Mapping[str, Tensor],
    meta: Mapping[str, Any] | None = None,
    unused: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a checkpoint of ours, as `.safetensors` or by `torch.save`, from the suffix.

    Args:
        path: the file; it appears only when it is complete.
        state_dict: our parameters, under the key `state_dict` as MMEngine wants it.
        meta: plain values about the origin.
        unused: tensors of the source that our model does not hold.

    Raises:
        OSError: it cannot be written; a file that was there before is unchanged.
    """
    unused, meta = dict(unused or {}), dict(meta or {})
    if Path(path).suffix == '.safetensors':
        tensors = dict(state_dict) | {UNUSED_PREFIX + k: v for k, v in unused.items()}
        # Tensors that share memory would be refused.
        tensors = {
            k: v.detach().clone(memory_format=torch.contiguous_format) for k, v in tensors.items()
        }
        metadata = {'format': 'pt', _META_KEY: json.dumps(meta)}
        _write_whole(path, lambda temp: save_file(tensors, temp, metadata))
    else:
        payload = {'meta': meta, 'state_dict': _own_storage(state_dict)}
        if unused:
            payload[UNUSED] = _own_storage(unused)
        _write_whole(path, lambda temp: torch.save(payload, temp))


def write_original(path: os.PathLike, container: str, state_dict: Mapping[str, Tensor]) -> None:
    """Write a file of the original's layout, all tensors under `container`."""
    if Path(path).suffix == '.safetensors':
        raise ConversionError(
            f'{path}: the original reads torch files only; name it .pth, .ckpt or .pt'
        )
    _write_whole(path, lambda temp: torch.save({container: _own_storage(state_dict)}, temp))


def _own_storage(tensors: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
    """Tensors as they are, views into larger storages copied (`torch.save` writes storages)."""
    return OrderedDict(
        (key, value.clone() if value.untyped_storage().nbytes() > value.nbytes else value)
        for key, value in tensors.items()
    )


def _write_whole(path: os.PathLike, write: Any) -> None:
    """Call `write(temporary name)`, flush it to the disk and rename it to `path`."""
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f'{path.parent}: no such folder, wanted for {path.name}')
    handle, temp = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}.', suffix='.tmp')
    os.close(handle)
    try:
        write(temp)
        with open(temp, 'rb') as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temp, 0o666 & ~umask)
        os.replace(temp, path)
    except (OSError, RuntimeError, SafetensorError) as err:
        raise OSError(
            f'{path} could not be written, nothing was left there: {err}; is the disk full?'
        ) from err
    finally:
        if os.path.exists(temp):
            os.unlink(temp)
