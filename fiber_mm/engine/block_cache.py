"""Tensors of a long evaluation: in memory up to a budget, then on disk; kept for a killed run.

What is stored are blocks (the trunks of a few images, the scores of their pairs), each under a kind
and a number.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from .checkpoint import CheckpointError, remove_stale_files, write_atomic

_IDENTITY = 'cache.json'


class CacheError(RuntimeError):
    """A cache that cannot be written, or that belongs to something else; names the folder."""


class BlockCache:
    """Blocks of tensors by kind and number.

    Args:
        memory_budget: Bytes of tensors held in memory; blocks beyond are read from disk.
        folder: Where every block is kept, for this run and a later one. None: blocks beyond the
            budget go to a temporary folder, which :meth:`close` removes.
        identity: What the blocks were computed from, name -> digest. A folder with another one is
            refused.
        spill_dir: Where the temporary folder is made; None: the system's place for such.
    Raises:
        CacheError: if ``folder`` belongs to something else, or ``spill_dir`` cannot be made.
        ValueError: for a budget that is no number of bytes.
    """

    def __init__(
        self,
        memory_budget: int,
        folder: str | Path | None = None,
        identity: Mapping[str, str] | None = None,
        spill_dir: str | Path | None = None,
    ) -> None:
        if not isinstance(memory_budget, int) or memory_budget < 0:
            raise ValueError(f'memory_budget is a number of bytes, got {memory_budget!r}')
        self.memory_budget = memory_budget
        self.folder = None if folder is None else Path(folder)
        self.spill_dir = spill_dir
        if spill_dir is not None:
            try:
                Path(spill_dir).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise CacheError(f'spill_dir {spill_dir} cannot be made: {error}') from error
        self.held = 0  # bytes in memory
        self.spilled = 0  # bytes that are on disk alone
        self._blocks: dict[tuple[str, int], dict[str, Any]] = {}
        self._written: set[tuple[str, int]] = set()
        self._seldom: list[tuple[str, int]] = []  # of those in memory, the ones to give way
        self._temporary: Path | None = None
        if self.folder is not None:
            self._open(dict(identity or {}))

    def _open(self, identity: dict[str, str]) -> None:
        """Take a folder over, or make it."""
        record = self.folder / _IDENTITY
        if record.is_file():
            there = json.loads(record.read_text())
            differing = sorted(
                name
                for name in identity.keys() | there.keys()
                if identity.get(name) != there.get(name)
            )
            if differing:
                raise CacheError(
                    f'the cache {self.folder} was made with another {", another ".join(differing)}:'
                    ' give another cache_dir, or delete this one'
                )
            remove_stale_files(self.folder)
        elif self.folder.is_dir() and any(self.folder.iterdir()):
            raise CacheError(
                f'{self.folder} holds files but is no cache (it has no {_IDENTITY}): give an empty '
                'or a new folder as cache_dir'
            )
        else:
            self._write(record, json.dumps(identity, indent=1).encode())

    # -- blocks --

    def __contains__(self, key: tuple[str, int]) -> bool:
        return (
            key in self._blocks
            or key in self._written
            or (self.folder is not None and self._path(*key).is_file())
        )

    def put(self, kind: str, number: int, block: dict[str, Any], seldom: bool = False) -> None:
        """Store a block.

        Args:
            kind: such as ``'image'``; part of a file name.
            number: of the block.
            block: tensors, or dictionaries and lists of them; they are moved to the host.
            seldom: whether it is read seldom: it leaves the memory when others need the room.
        Raises: CacheError: if the disk is full.
        """
        block = _map(block, lambda t: t.detach().to('cpu'))
        size = _size(block)
        while not seldom and self._seldom and self.held + size > self.memory_budget:
            self._evict(self._seldom.pop())
        key = kind, number
        fits = self.held + size <= self.memory_budget
        if fits:
            self._blocks[key] = block
            self.held += size
            if seldom:
                self._seldom.append(key)
        else:
            self.spilled += size
        if self.folder is not None or not fits:
            self._save(key, block)

    def _evict(self, key: tuple[str, int]) -> None:
        """Leave a block on disk alone."""
        block = self._blocks.pop(key)
        if key not in self._written:
            self._save(key, block)
        self.held -= _size(block)
        self.spilled += _size(block)

    def _save(self, key: tuple[str, int], block: dict[str, Any]) -> None:
        content = io.BytesIO()
        # A view would be saved with all that lies behind it.
        torch.save(_map(block, lambda t: t.clone()), content)
        self._write(self._path(*key), content.getvalue())
        self._written.add(key)

    def get(self, kind: str, number: int) -> dict[str, Any]:
        """A block, on the host; tensors from disk are read when they are used.

        Raises:
            KeyError: if it was never stored.
            CacheError: if its file is damaged.
        """
        if (kind, number) in self._blocks:
            return self._blocks[kind, number]
        path = self._path(kind, number)
        if not path.is_file():
            raise KeyError(f'no block {number} of {kind!r}')
        try:
            return torch.load(path, map_location='cpu', mmap=True, weights_only=True)
        except (RuntimeError, EOFError, ValueError, OSError) as error:
            raise CacheError(
                f'{path} is damaged ({error}): delete it, and it is computed again'
            ) from error

    def _path(self, kind: str, number: int) -> Path:
        folder = self.folder
        if folder is None:
            if self._temporary is None:
                self._temporary = Path(tempfile.mkdtemp(prefix='fiber_cache_', dir=self.spill_dir))
            folder = self._temporary
        return folder / f'{kind}_{number:06d}.pt'

    def _write(self, path: Path, content: bytes) -> None:
        try:
            write_atomic(path, content)
        except CheckpointError as error:
            raise CacheError(
                f'{error} Or raise memory_budget ({self.memory_budget / 2**30:.1f} GiB), or choose '
                'a folder on another disk (cache_dir, spill_dir).'
            ) from error

    # -- the end --

    def close(self) -> None:
        """Forget what is in memory, and remove the temporary folder; a given one stays."""
        for kept in (self._blocks, self._written, self._seldom):
            kept.clear()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary = None

    def __enter__(self) -> BlockCache:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def model_digest(model: nn.Module, *settings: Any) -> str:
    """Digest of a model's weights, and of what else its outputs depend on.

    Args:
        model: any; reading its weights takes a second or two per gigabyte.
        settings: anything whose ``repr`` is the same in every run.
    """
    return digest(
        *settings,
        *(part for name, value in sorted(model.state_dict().items()) for part in (name, value)),
    )


def digest(*parts: Any) -> str:
    """Digest of tensors, bytes, and the ``repr`` of other values."""
    total = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, Tensor):
            total.update(f'{tuple(part.shape)} {part.dtype} '.encode())
            part = part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        elif not isinstance(part, bytes):
            part = repr(part).encode()
        total.update(part)
        total.update(b'\0')
    return total.hexdigest()


def _map(value: Any, function: Any) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {key: _map(item, function) for key, item in value.items()}
    return [_map(item, function) for item in value]


def _size(block: Any) -> int:
    return sum(tensor.nbytes for tensor in _tensors(block))


def _tensors(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        yield value
    else:
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(item)
