"""An index on the disk.

===========================  ===================================================================
``index.json``               which generation counts, who made it, of which images
``config.json``              the model's config, so that a search finds its model again
``features-000001.faiss``    features of generation 1
``images-000001.jsonl``      its images: path, size, mtime_ns, id
``pieces/000000.npz``        features of a run that is not finished
``skipped.jsonl``            images that the last run could not read, and why
``lock``                     held by the run that writes
===========================  ===================================================================

A new generation counts from the moment that ``index.json`` names it. Until then the old one is
whole, whatever happens: a kill, a full disk.
"""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fiber_mm.engine.checkpoint import remove_stale_files, write_atomic

from . import vectors
from .errors import ImageIndexError
from .scan import FileState

VERSION = 1
META, CONFIG, SKIPPED = 'index.json', 'config.json', 'skipped.jsonl'
PIECES, LOCK = 'pieces', 'lock'


class Piece(NamedTuple):
    """Part of the work of a run.

    Attributes:
        states: Images that were read, in the order of ``features``, to their states.
        features: (N, D) float32.
        skipped: Images that could not be read, to their states and the reasons.
    """

    states: dict[str, FileState]
    features: np.ndarray
    skipped: dict[str, tuple[FileState, str]]


class IndexFolder:
    """Reads and writes the files of an index.

    Args:
        path: The folder; need not be there yet.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    # ---- what counts -------------------------------------------------------------------------

    def meta(self) -> dict[str, Any] | None:
        """Content of ``index.json``; None if there is no index yet.

        Raises:
            ImageIndexError: if the folder holds something else, or the file is damaged or of
                another version.
        """
        file = self.path / META
        if not file.is_file():
            if self.path.exists() and (not self.path.is_dir() or any(self._foreign())):
                raise ImageIndexError(
                    f'{self.path} is there and holds no index of images: choose another place'
                )
            return None
        try:
            meta = json.loads(file.read_text(encoding='utf-8'))
            version = meta['version']
        except (ValueError, KeyError, TypeError) as error:
            raise ImageIndexError(
                f'{file} is damaged ({error}): make the index anew (--overwrite)'
            ) from error
        if version != VERSION:
            raise ImageIndexError(
                f'{file} is of version {version}, this program reads version {VERSION}: make the '
                'index anew (--overwrite)'
            )
        return meta

    def _foreign(self) -> Iterator[Path]:
        """What a first run, killed before it wrote ``index.json``, does not leave behind."""
        return (p for p in self.path.iterdir() if p.name not in (LOCK, CONFIG, f'.{META}.tmp',
                                                                 f'.{CONFIG}.tmp'))  # fmt: skip

    def write_meta(self, meta: Mapping[str, Any]) -> None:
        """Write ``index.json``."""
        self._write_json(META, dict(meta, version=VERSION))

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write ``config.json``."""
        self._write_json(CONFIG, config)

    def write_skipped(self, skipped: Mapping[str, str]) -> None:
        """List images that could not be read, with the reasons, in ``skipped.jsonl``."""
        lines = (json.dumps(dict(path=path, why=why)) + '\n' for path, why in skipped.items())
        if skipped:
            write_atomic(self.path / SKIPPED, ''.join(lines).encode())
        else:
            (self.path / SKIPPED).unlink(missing_ok=True)

    def _write_json(self, name: str, content: Mapping[str, Any]) -> None:
        write_atomic(self.path / name, (json.dumps(content, indent=1) + '\n').encode())

    def images(self, meta: Mapping[str, Any]) -> dict[str, tuple[FileState, int]]:
        """Path of each image to its state and number."""
        if not meta['generation']:
            return {}
        file = self._of('images', meta['generation'], 'jsonl')
        try:
            rows = [json.loads(line) for line in file.read_bytes().splitlines()]
            images = {
                row['path']: (FileState(row['size'], row['mtime_ns']), row['id']) for row in rows
            }
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ImageIndexError(
                f'{file} cannot be read ({error}): make the index anew (--overwrite)'
            ) from error
        if len(images) != meta['count']:
            raise ImageIndexError(
                f'{file} lists {len(images)} images, {META} says {meta["count"]}: make the index '
                'anew (--overwrite)'
            )
        return images

    def vectors(self, meta: Mapping[str, Any]) -> Any:
        """The FAISS index."""
        return vectors.read_vectors(
            self._of('features', meta['generation'], 'faiss'), meta['count']
        )

    def _of(self, what: str, generation: int, suffix: str) -> Path:
        return self.path / f'{what}-{generation:06d}.{suffix}'

    def commit(
        self,
        meta: Mapping[str, Any],
        images: Mapping[str, tuple[FileState, int]],
        index: Any,
    ) -> dict[str, Any]:
        """Make a new generation count, and remove the old one and the pieces.

        Returns: the new content of ``index.json``.
        Raises: CheckpointError: if the disk is full; the old generation still counts.
        """
        generation = meta['generation'] + 1
        rows = (
            dict(path=path, size=state.size, mtime_ns=state.mtime_ns, id=number)
            for path, (state, number) in images.items()
        )
        lines = ''.join(json.dumps(row) + '\n' for row in rows)
        write_atomic(self._of('images', generation, 'jsonl'), lines.encode())
        vectors.write_vectors(index, self._of('features', generation, 'faiss'))
        meta = dict(meta, generation=generation, count=len(images))
        self.write_meta(meta)
        self.tidy(meta)
        self.remove_pieces()
        return meta

    def tidy(self, meta: Mapping[str, Any]) -> None:
        """Remove what does not count and is no piece."""
        remove_stale_files(self.path)
        for what, suffix in (('images', 'jsonl'), ('features', 'faiss')):
            for file in self.path.glob(f'{what}-*.{suffix}'):
                if file != self._of(what, meta['generation'], suffix):
                    file.unlink()

    def remove(self) -> None:
        """Remove the index, and nothing that is not part of it.

        ``index.json`` goes last: while it is there, the rest is known as parts of an index.
        """
        if self.path.is_dir():
            remove_stale_files(self.path)
        self.remove_pieces()
        for pattern in (SKIPPED, 'images-*.jsonl', 'features-*.faiss', CONFIG, META):
            for file in self.path.glob(pattern):
                file.unlink()

    # ---- pieces ------------------------------------------------------------------------------

    def add_piece(
        self,
        states: Mapping[str, FileState],
        features: Sequence[np.ndarray],
        skipped: Mapping[str, tuple[FileState, str]],
    ) -> None:
        """Write a piece behind those that are there."""
        numbers = [int(file.stem) for file in self._piece_files()]
        rows = json.dumps(
            dict(
                states=[(path, *state) for path, state in states.items()],
                skipped=[(path, *state, why) for path, (state, why) in skipped.items()],
            )
        ).encode()
        content = io.BytesIO()
        arrays = np.concatenate(features) if features else np.empty((0, 0), np.float32)
        np.savez(content, features=arrays, rows=np.frombuffer(rows, np.uint8))
        path = self.path / PIECES / f'{max(numbers, default=-1) + 1:06d}.npz'
        write_atomic(path, content.getbuffer())

    def pieces(self) -> Iterator[Piece]:
        """The pieces, in the order in which they were written."""
        for file in self._piece_files():
            try:
                with np.load(file) as content:
                    rows = json.loads(content['rows'].tobytes())
                    features = content['features']
            except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
                raise ImageIndexError(
                    f'{file} is damaged ({error}): remove it, its images are then embedded again'
                ) from error
            yield Piece(
                {path: FileState(*state) for path, *state in rows['states']},
                features,
                {path: (FileState(*state), why) for path, *state, why in rows['skipped']},
            )

    def remove_pieces(self) -> None:
        """Remove all pieces."""
        for file in self._piece_files():
            file.unlink()
        if (self.path / PIECES).is_dir():
            remove_stale_files(self.path / PIECES)
            with contextlib.suppress(OSError):
                (self.path / PIECES).rmdir()

    def _piece_files(self) -> list[Path]:
        return sorted((self.path / PIECES).glob('[0-9]*.npz'))

    # ---- one at a time -----------------------------------------------------------------------

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs from writing.

        Raises: ImageIndexError: if another one does.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.path / LOCK, 'ab') as file:
            try:
                import fcntl
            except ModuleNotFoundError:  # Windows: the user has to see to it
                yield
                return
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ImageIndexError(
                    f'another run writes {self.path} just now: wait until it is done'
                ) from error
            yield  # the kernel takes the lock back when the file is closed, or we are killed


def same_maker(meta: Mapping[str, Any], settings: Mapping[str, Any], weights: str) -> None:
    """Refuse a model that did not make the index.

    Raises: ImageIndexError: says how the two differ.
    """
    made = meta['settings']
    differing = [
        f'{name} {made.get(name)!r} there, {settings.get(name)!r} here'
        for name in sorted({*made, *settings})
        if made.get(name) != settings.get(name)
    ]
    if not differing and meta['weights'] != weights:
        differing = [f'weights {meta["weights"][:12]}... there, {weights[:12]}... here']
    if differing:
        raise ImageIndexError(
            f'the index was built by another model ({"; ".join(differing)}): its features mean '
            'nothing to this one. Use the config and checkpoint that it was built with, build '
            'another index (--index), or replace this one (--overwrite)'
        )
