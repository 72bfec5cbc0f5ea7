"""Bringing an index up to date with its folder of images.

What a run has embedded it writes in pieces, from time to time; a run that was killed goes on
behind the last piece, with the batches that the whole run would have had, and so ends with the
same index to the last bit.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from fiber_mm.datasets.transforms.image import UnreadableImageError, read_image

from . import vectors
from .embed import Embedder
from .errors import ImageIndexError
from .scan import SUFFIXES, FileState, FolderScan, kinds, path_id, scan_images
from .store import IndexFolder, same_maker

ON_ERROR = ('raise', 'skip')
Images = dict[str, tuple[FileState, int]]


@dataclass
class UpdateReport:
    """What a run did.

    Attributes:
        total: Images in the index now.
        added, changed: Images embedded because they were new, or not as they had been.
        removed: Images that left the index, since their files are gone.
        resumed: How many of the embedded ones an earlier, unfinished run had done.
        skipped: Images that could not be read, and why.
        others: Files of other kinds, which were not looked at: suffix to number.
        unread: Folders that could not be read, and why.
    """

    total: int = 0
    added: int = 0
    changed: int = 0
    removed: int = 0
    resumed: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    others: Counter[str] = field(default_factory=Counter)
    unread: list[str] = field(default_factory=list)

    @property
    def notes(self) -> list[str]:
        """What was passed over, a line each."""
        return _notes(self.others, self.unread)

    def __str__(self) -> str:
        resumed = f' ({self.resumed} of them by an earlier run)' if self.resumed else ''
        return (
            f'{self.total} images in the index: {self.added} added, {self.changed} changed'
            f'{resumed}, {self.removed} removed, {len(self.skipped)} skipped as unreadable'
        )


def _notes(others: Counter[str], unread: list[str]) -> list[str]:
    notes = []
    if others:
        notes.append(f'{others.total():,} files of other kinds were not looked at: {kinds(others)}')
    if unread:
        more = f', and {len(unread) - 1:,} more' if unread[1:] else ''
        notes.append(f'folders that cannot be read were left out: {unread[0]}{more}')
    return notes


@dataclass(frozen=True)
class Work:
    """How a run goes about it; see :meth:`ImageIndex.build`."""

    batch_size: int = 32
    workers: int = 2
    on_error: str = 'raise'
    save_every: float = 30.0
    progress: bool = True

    def __post_init__(self) -> None:
        if self.on_error not in ON_ERROR:
            raise ValueError(f'on_error is one of {ON_ERROR}, got {self.on_error!r}')
        if self.batch_size < 1 or self.workers < 0:
            raise ValueError(
                'wanted a batch size of at least 1 and no negative number of workers, got '
                f'{self.batch_size} and {self.workers}'
            )


@dataclass(frozen=True)
class ImageBatch:
    """Images read one after the other.

    All pixels are one tensor: each that comes from another process takes a file descriptor, of
    which there are few.

    Attributes:
        pixels: (N, 3, S, S) uint8, BGR: images that could be read; None if there are none.
        good: N places, in the batch, of these.
        faults: Places of the others, and what is wrong with the files.
    """

    pixels: torch.Tensor | None
    good: list[int]
    faults: dict[int, str]

    @classmethod
    def of(cls, images: list[torch.Tensor | str]) -> ImageBatch:
        """A batch of what :class:`ImageFiles` gives."""
        good = [place for place, x in enumerate(images) if not isinstance(x, str)]
        faults = {place: x for place, x in enumerate(images) if isinstance(x, str)}
        pixels = torch.stack([images[place] for place in good]) if good else None
        return cls(pixels, good, faults)


class ImageFiles(Dataset):
    """Decoded images of a folder; a faulty one is its error.

    Args:
        root: The folder.
        paths: Images, below it.
        transform: Makes all of one size.
    """

    def __init__(self, root: str | Path, paths: list[str], transform: BaseTransform) -> None:
        self.root, self.paths, self.transform = str(root), paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor | str:
        """(3, S, S) uint8, BGR; or what is wrong with the file."""
        try:
            img = read_image(os.path.join(self.root, self.paths[index]))
        except (UnreadableImageError, OSError) as error:
            return str(error)
        pixels = self.transform(dict(img=img))['img']
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))

    def batches(self, size: int, workers: int) -> Iterator[ImageBatch]:
        """Consecutive images, ``size`` at a time, read by ``workers`` processes."""
        return iter(DataLoader(self, size, num_workers=workers, collate_fn=ImageBatch.of))


def images_of(root: str | Path, folder: IndexFolder, on_error: str = 'raise') -> FolderScan:
    """The images that an index is made of; see :func:`scan_images`.

    Raises: ImageIndexError: if there are none.
    """
    found = scan_images(root, folder.path, on_error)
    if not found.images:
        notes = ''.join(f'; {note}' for note in _notes(found.others, found.unread))
        wanted = f'Images end in {", ".join(SUFFIXES)}: make copies of such a kind. '
        raise ImageIndexError(
            f'{root} holds no images{notes}: is this the folder, is its disk mounted? '
            f'{wanted if found.others else ""}The index is left as it is'
        )
    return found


def update(
    folder: IndexFolder,
    root: str | Path,
    embedder: Embedder,
    work: Work,
    factory: str | None = None,
    relocate: bool = False,
    source: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> UpdateReport:
    """Embed what is new or has changed, drop what is gone; see :meth:`ImageIndex.build`."""
    vectors.import_faiss()
    root = Path(root)
    with folder.locked():
        scan = images_of(root, folder, work.on_error)
        now = scan.images
        if overwrite:
            vectors.empty_vectors(embedder.dim, factory or 'Flat')  # can there be a new one?
            folder.remove()
        meta = _opened(folder, root, embedder, factory, relocate, source)
        folder.tidy(meta)
        old = folder.images(meta)
        kept = {path: old[path] for path in now if path in old and old[path][0] == now[path]}
        todo = {path: state for path, state in now.items() if path not in kept}
        index = _base(folder, meta, embedder, forget=len(kept) < len(old))
        report = UpdateReport(
            removed=len(old.keys() - now.keys()), others=scan.others, unread=scan.unread
        )
        done = _embedded(folder, root, embedder, todo, work, report)
        report.changed = len(done.keys() & old.keys())
        report.added = len(done) - report.changed
        report.total = len(kept) + len(done)
        if not report.total:
            raise ImageIndexError(
                f'none of the {len(now)} images of {root} could be read, the first one: '
                f'{next(iter(report.skipped.values()))}'
            )
        if done or len(kept) < len(old):
            images = _numbered(kept, {path: todo[path] for path in done})
            index = _merged(index, meta, embedder.dim, old, kept, done, images)
            folder.commit(meta, images, index)
        else:
            folder.remove_pieces()
        folder.write_skipped(report.skipped)
        return report


def _opened(
    folder: IndexFolder,
    root: Path,
    embedder: Embedder,
    factory: str | None,
    relocate: bool,
    source: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """``index.json`` of an index that this run may change; written if it is new."""
    meta, place = folder.meta(), str(root.resolve())
    if meta is not None:
        same_maker(meta, embedder.settings, embedder.weights)
        if not meta['generation'] and factory is not None:
            meta = dict(meta, factory=factory)  # what has been embedded suits any kind
            vectors.empty_vectors(embedder.dim, factory)
        if factory is not None and factory != meta['factory']:
            raise ImageIndexError(
                f'{folder.path} is an index of the kind {meta["factory"]!r}, not {factory!r}: '
                'leave the kind out, or replace the index (--overwrite)'
            )
        if meta['root'] != place and not relocate:
            raise ImageIndexError(
                f'{folder.path} is an index of {meta["root"]}, not of {place}: choose another '
                'index (--index), or say that the images were moved (--relocate)'
            )
        meta = dict(meta, root=place, source=dict(source or meta['source']))
    else:
        factory = factory or 'Flat'
        vectors.empty_vectors(embedder.dim, factory)  # before any work: is there such a kind?
        meta = dict(
            generation=0,
            count=0,
            root=place,
            factory=factory,
            settings=embedder.settings,
            weights=embedder.weights,
            source=dict(source or {}),
        )
    config = getattr(embedder.model, 'cfg', None)
    if config is not None:
        wanted = ('default_scope', 'custom_imports', 'model')
        folder.write_config({k: v for k, v in config.to_dict().items() if k in wanted})
    folder.write_meta(meta)
    return meta


def _base(folder: IndexFolder, meta: Mapping[str, Any], embedder: Embedder, forget: bool) -> Any:
    """The FAISS index to start from, and whether it can do what will be asked of it."""
    if not meta['generation']:
        return vectors.empty_vectors(embedder.dim, meta['factory'])
    index = folder.vectors(meta)
    if forget and not vectors.is_exact(index) and not vectors.forgets(index):
        raise ImageIndexError(
            f'images have changed or gone, but an index of the kind {meta["factory"]!r} cannot '
            'forget any: make it anew (--overwrite)'
        )
    return index


def _embedded(
    folder: IndexFolder,
    root: Path,
    embedder: Embedder,
    todo: Mapping[str, FileState],
    work: Work,
    report: UpdateReport,
) -> dict[str, np.ndarray]:
    """Features (D,) of the images to embed, in the order of their paths."""
    done: dict[str, np.ndarray] = {}
    for piece in folder.pieces():
        for (path, state), feature in zip(piece.states.items(), piece.features):
            if todo.get(path) == state:
                done[path] = feature
        for path, (state, why) in piece.skipped.items():
            if work.on_error == 'skip' and todo.get(path) == state:
                report.skipped[path] = why
    report.resumed = len(done)
    rest = [path for path in todo if path not in done and path not in report.skipped]
    bar = tqdm(
        desc='Images',
        unit='img',
        total=len(todo),
        initial=len(todo) - len(rest),
        disable=not (work.progress and rest),
    )
    fresh = _Fresh(folder, todo, work.save_every)
    files = ImageFiles(root, rest, embedder.transform)
    with bar:
        batches = files.batches(work.batch_size, work.workers) if rest else ()
        for number, batch in enumerate(batches):
            paths = rest[number * work.batch_size :][: work.batch_size]
            faults = {paths[place]: why for place, why in batch.faults.items()}
            if faults and work.on_error == 'raise':
                fresh.save()
                raise UnreadableImageError(
                    f'{next(iter(faults.values()))}. Repair or remove it and start again, the '
                    'work goes on there; or leave out what cannot be read (--on-error skip)'
                )
            good = [paths[place] for place in batch.good]
            features = np.empty((0, embedder.dim), np.float32)
            if batch.pixels is not None:
                features = embedder.image_features(batch.pixels)
            done.update(zip(good, features))
            report.skipped.update(faults)
            fresh.add(good, features, faults)
            bar.set_postfix(skipped=len(report.skipped), refresh=False)
            bar.update(len(paths))
    # What is merged next lies on the disk: if that fails, nothing has to be embedded again.
    fresh.save()
    return {path: done[path] for path in todo if path in done}


class _Fresh:
    """What has been embedded since the last piece was written."""

    def __init__(
        self, folder: IndexFolder, states: Mapping[str, FileState], save_every: float
    ) -> None:
        self.folder, self.states, self.save_every = folder, states, save_every
        self._clear()

    def _clear(self) -> None:
        self.paths: list[str] = []
        self.features: list[np.ndarray] = []
        self.faults: dict[str, str] = {}
        self.since = time.monotonic()

    def add(self, paths: list[str], features: np.ndarray, faults: Mapping[str, str]) -> None:
        """Take a batch, and write a piece if it is time."""
        self.paths += paths
        self.faults.update(faults)
        if len(features):
            self.features.append(features)
        if time.monotonic() - self.since >= self.save_every:
            self.save()

    def save(self) -> None:
        """Write a piece."""
        if self.paths or self.faults:
            self.folder.add_piece(
                {path: self.states[path] for path in self.paths},
                self.features,
                {path: (self.states[path], why) for path, why in self.faults.items()},
            )
        self._clear()


def _numbered(kept: Images, done: Mapping[str, FileState]) -> Images:
    """All images, in the order of their paths, with states and numbers."""
    images = {**kept, **{path: (state, path_id(path)) for path, state in done.items()}}
    images = dict(sorted(images.items()))
    owners: dict[int, str] = {}
    for path, (_, number) in images.items():
        other = owners.setdefault(number, path)
        if other != path:
            raise ImageIndexError(
                f'{other} and {path} have the same number by chance (one in 10^18): rename one'
            )
    return images


def _merged(
    index: Any,
    meta: Mapping[str, Any],
    dim: int,
    old: Images,
    kept: Images,
    done: Mapping[str, np.ndarray],
    images: Images,
) -> Any:
    """The FAISS index of ``images``.

    An exact one is written anew in the order of the paths, so that it does not tell how it grew.
    Others forget and learn; they are trained once, on the images of the first run.
    """
    if vectors.is_exact(index):
        features = np.empty((len(images), dim), np.float32)
        rows = {path: row for row, path in enumerate(images)}
        if kept:
            numbers = np.array([number for _, number in kept.values()], np.int64)
            features[[rows[path] for path in kept]] = index.reconstruct_batch(numbers)
        for path, feature in done.items():
            features[rows[path]] = feature
        index = vectors.empty_vectors(dim, meta['factory'])
        index.add_with_ids(features, np.array([n for _, n in images.values()], np.int64))
        return index
    gone = [number for path, (_, number) in old.items() if path not in kept]
    if gone:
        index.remove_ids(np.array(gone, np.int64))
    if done:
        features = np.stack(list(done.values()))
        vectors.train(index, features)
        index.add_with_ids(features, np.array([images[path][1] for path in done], np.int64))
    return index
