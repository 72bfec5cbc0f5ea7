"""Searching a folder of images by words, or by another image.

index = ImageIndex.build('work_dirs/index', 'photos', model)
for hit in index.search('a red circle above two blue squares', k=5, rerank=50):
    print(hit.file, hit.similarity, hit.match)
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fiber_mm.datasets.transforms.image import UnreadableImageError
from fiber_mm.models.multimodal.base import FiberMultimodal
from fiber_mm.structures import TextTrunk

from . import vectors
from .embed import Embedder
from .errors import ImageIndexError
from .scan import file_state
from .store import META, IndexFolder, same_maker
from .update import ImageFiles, UpdateReport, Work, update


@dataclass(frozen=True)
class Hit:
    """An image that was found.

    Attributes:
        path: Below the folder of images.
        file: Where it lies.
        similarity: Cosine of its features and the query's, in [-1, 1].
        match: Probability that image and text match, in [0, 1]; None if it was not re-ranked.
        problem: Why this result may not be what it seems: the file is missing, has changed since
            it was indexed, or cannot be read; None if all is well.
    """

    path: str
    file: Path
    similarity: float
    match: float | None = None
    problem: str | None = None


class ImageIndex:
    """An index on the disk, open for searching.

    Args:
        folder: Its folder.
        model: The model that it was built with; see :class:`Embedder`.
        images: Where the images lie now, if their folder was moved; None for where they were.
        batch_size: Images per batch in re-ranking.
        workers: Processes that read images for re-ranking; 0 reads them here.

    Raises:
        ModuleNotFoundError: if faiss is not installed.
        FileNotFoundError: if there is no index.
        ImageIndexError: if it was built by another model, is not finished, or is damaged.
    """

    def __init__(
        self,
        folder: str | Path,
        model: FiberMultimodal,
        images: str | Path | None = None,
        batch_size: int = 16,
        workers: int = 0,
    ) -> None:
        vectors.import_faiss()
        meta = read_meta(folder)
        self.folder = IndexFolder(folder)
        self.embedder = _embedder_of(meta, model)
        meta, self._images, self._vectors = self._read(meta)
        self.root = Path(images or meta['root'])
        if not self.root.is_dir():
            raise NotADirectoryError(
                f'there is no image folder {self.root}; say where the images are now (--images)'
            )
        self.batch_size, self.workers = batch_size, workers
        self.report: UpdateReport | None = None
        self._path_of = {number: path for path, (_, number) in self._images.items()}

    def _read(self, meta: dict[str, Any]) -> tuple[dict[str, Any], dict, Any]:
        """What ``index.json`` says, images and vectors of one generation of the index."""
        same_maker(meta, self.embedder.settings, self.embedder.weights)
        if not meta['generation']:
            raise ImageIndexError(
                f'the index {self.folder.path} is not finished: run tools/index_images.py again, '
                'it goes on where it was'
            )
        try:
            return meta, self.folder.images(meta), self.folder.vectors(meta)
        except ImageIndexError:
            newer = read_meta(self.folder.path)
            if newer['generation'] == meta['generation']:
                raise
        return self._read(newer)  # meanwhile an update replaced what was about to be read

    @classmethod
    def build(
        cls,
        folder: str | Path,
        images: str | Path,
        model: FiberMultimodal,
        *,
        size: int | None = None,
        precision: str | None = None,
        factory: str | None = None,
        batch_size: int = 32,
        workers: int = 2,
        on_error: str = 'raise',
        save_every: float = 30.0,
        overwrite: bool = False,
        relocate: bool = False,
        progress: bool = True,
        source: Mapping[str, Any] | None = None,
    ) -> ImageIndex:
        """Build an index, go on with one, or bring it up to date, and open it.

        Images that are new or have changed (size or time of the file) are embedded, those that
        are gone are dropped. Until that is done the index stays as it was; what a run that was
        killed has embedded is used by the next one.

        Args:
            folder: Where the index is, or will be.
            images: Folder of images, those in folders below included.
            model: See :class:`Embedder`.
            size: Side in pixels to which images are resized; None takes that of the index, or of
                the model's config.
            precision: ``fp32`` or ``bf16``; None takes that of the index, or ``fp32``.
            factory: Kind of a new index, a string of ``faiss.index_factory``; None for ``Flat``,
                which is exact.
            batch_size: Images per batch.
            workers: Processes that read images; 0 reads them here.
            on_error: What to do about an image, or a folder in the folder, that cannot be read:
                ``raise``, or ``skip`` and list it in the report.
            save_every: Seconds of work that a kill may cost.
            overwrite: Replace an index that is there.
            relocate: Whether the images of the index were moved to ``images``.
            progress: Show a progress bar.
            source: Kept in the index, under ``source``: where the model's weights came from.

        Returns:
            The index; its ``report`` says what was done.

        Raises:
            ModuleNotFoundError: if faiss is not installed.
            NotADirectoryError: if there is no such folder of images.
            ImageIndexError: if the index was built by another model, or of other images; if
                there are no images, or a folder cannot be read; for an unknown kind of index.
            UnreadableImageError: for an image that cannot be read, which it names.
            CheckpointError: if the disk is full; the old index and the work done are kept.
        """
        vectors.import_faiss()
        work = Work(batch_size, workers, on_error, save_every, progress)
        place = IndexFolder(folder)
        overwrite = overwrite and (place.path / META).is_file()
        meta = None if overwrite else place.meta()
        if meta is None:
            embedder = Embedder(model, size, precision or 'fp32')
        else:
            embedder = _embedder_of(meta, model, size, precision)
        report = update(place, images, embedder, work, factory, relocate, source, overwrite)
        index = cls(folder, model, workers=workers)
        index.report = report
        return index

    def __len__(self) -> int:
        """Number of images."""
        return len(self._images)

    def search(self, text: str, k: int = 10, rerank: int = 0) -> list[Hit]:
        """The images that suit a text best.

        Args:
            text: What to look for.
            k: How many.
            rerank: That many of the most similar images are sorted anew by whether they match the
                text, which the fused blocks tell: slower and better. The others follow.

        Returns:
            At most ``k`` hits, best first. Among those re-ranked the ones whose file cannot be
            read come last; see :attr:`Hit.problem`.

        Raises:
            ValueError: for an empty text, ``k`` below 1 or a negative ``rerank``.
            ImageIndexError: if the model cannot re-rank.
        """
        if k < 1 or rerank < 0:
            raise ValueError(f'wanted k of at least 1 and rerank of at least 0, got {k}, {rerank}')
        if rerank:
            self.embedder.check_matching()
        trunk = self.embedder.text_trunk(text)
        hits = self._nearest(self.embedder.text_features(trunk), max(k, rerank))
        if rerank:
            hits = self._reranked(hits[:rerank], trunk) + hits[rerank:]
        return hits[:k]

    def search_image(self, image: str | os.PathLike, k: int = 10) -> list[Hit]:
        """The images that are most similar to another one, by the same features.

        Args:
            image: A file, of the index or not.
            k: How many.

        Raises:
            ValueError: for ``k`` below 1.
            UnreadableImageError: if the file cannot be read.
        """
        if k < 1:
            raise ValueError(f'wanted k of at least 1, got {k}')
        pixels = self._files(os.path.dirname(image), [os.path.basename(image)])[0]
        if isinstance(pixels, str):
            raise UnreadableImageError(pixels)
        return self._nearest(self.embedder.image_features(pixels[None])[0], k)

    def _nearest(self, query: np.ndarray, k: int) -> list[Hit]:
        hits = []
        for score, number in zip(*vectors.nearest(self._vectors, query, k)):
            path = self._path_of.get(int(number))
            if path is None:
                raise ImageIndexError(
                    f'{self.folder.path}: the features and the list of images do not belong '
                    'together, make the index anew (--overwrite)'
                )
            file = self.root / path
            hits.append(Hit(path, file, float(score), problem=self._problem(path, file)))
        return sorted(hits, key=lambda hit: (-hit.similarity, hit.path))

    def _problem(self, path: str, file: Path) -> str | None:
        state = file_state(file)
        if state.size < 0:
            return 'missing'
        return None if state == self._images[path][0] else 'changed since it was indexed'

    def _reranked(self, hits: Sequence[Hit], text: TextTrunk) -> list[Hit]:
        there = [hit for hit in hits if hit.problem != 'missing']
        files = self._files(self.root, [hit.path for hit in there])
        ranked: list[tuple[float, Hit]] = []
        rest = [hit for hit in hits if hit.problem == 'missing']
        for number, batch in enumerate(files.batches(self.batch_size, self.workers)):
            own = there[number * self.batch_size :][: self.batch_size]
            if batch.pixels is not None:
                odds = self.embedder.match(batch.pixels, text)
                shares = torch.from_numpy(odds).sigmoid()
                ranked += [
                    (x, replace(own[i], match=share))
                    for i, x, share in zip(batch.good, odds.tolist(), shares.tolist())
                ]
            rest += [replace(own[i], problem=why) for i, why in batch.faults.items()]
        ranked.sort(key=lambda pair: (-pair[0], -pair[1].similarity, pair[1].path))
        rest.sort(key=lambda hit: (-hit.similarity, hit.path))
        return [hit for _, hit in ranked] + rest

    def _files(self, root: str | Path, paths: Sequence[str]) -> ImageFiles:
        return ImageFiles(root, list(paths), self.embedder.transform)


def read_meta(folder: str | Path) -> dict[str, Any]:
    """What an index says about itself: ``root``, ``settings``, ``source``, ``count``, ...

    Raises:
        FileNotFoundError: if there is no index.
        ImageIndexError: if there is something else, or it is damaged.
    """
    meta = IndexFolder(folder).meta()
    if meta is None:
        raise FileNotFoundError(
            f'there is no index {folder}: make one with tools/index_images.py FOLDER'
        )
    return meta


def _embedder_of(
    meta: Mapping[str, Any],
    model: FiberMultimodal,
    size: int | None = None,
    precision: str | None = None,
) -> Embedder:
    """The model as the index was built with it, unless other settings are asked for."""
    settings = meta['settings']
    return Embedder(model, size or settings['size'], precision or settings['precision'])
