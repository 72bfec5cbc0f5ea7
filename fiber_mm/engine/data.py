"""Samplers whose order and augmentation are pure functions of the seed and the position.

mmengine's samplers give the same order for the same seed, but a data set's transforms draw from
generators whose state depends on the worker and on everything drawn before. Here the index that
goes to the worker carries the seed of its sample (:class:`SeededIndex`), and
:class:`FiberSeededDataset` applies it. All samplers can start anywhere without loading an image.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sized
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import DataLoader, Dataset, Sampler

from fiber_mm.registry import DATA_SAMPLERS, DATASETS

from .randomness import cpu_seeded, mix_seed


class SeededIndex(int):
    """Index of a sample that also carries the seed for its random numbers."""

    seed: int

    def __new__(cls, index: int, seed: int) -> SeededIndex:
        self = super().__new__(cls, index)
        self.seed = seed
        return self

    def __reduce__(self) -> tuple:
        return SeededIndex, (int(self), self.seed)


@DATASETS.register_module()
class FiberSeededDataset(Dataset):
    """Draws each sample's random numbers from the seed that its index carries.

    ``FiberRunner`` puts it around the data set of every loader with one of our samplers; other
    runners need it in the config.

    Args:
        dataset: data set or its config. All its attributes are found here too.
    """

    def __init__(self, dataset: Dataset | dict) -> None:
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset

    def __getitem__(self, index: int) -> Any:
        if not isinstance(index, SeededIndex):
            return self.dataset[index]
        with cpu_seeded(index.seed):
            return self.dataset[int(index)]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        # Only for names not found here; 'dataset' itself is missing while unpickling.
        if name == 'dataset' or name.startswith('__'):
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        # mmdet's PipelineSwitchHook sets `dataset.pipeline`.
        if name == 'dataset':
            super().__setattr__(name, value)
        else:
            setattr(self.dataset, name, value)


class _SeededSampler(Sampler):
    """Common to our samplers: the order of an epoch and the seed of a place in it."""

    def __init__(self, dataset: Sized, shuffle: bool = True, seed: int | None = None) -> None:
        if len(dataset) == 0:
            raise ValueError('the data set is empty: nothing to sample')
        self.dataset = dataset
        self.shuffle = shuffle
        self.seed = sync_random_seed() if seed is None else seed
        self.rank, self.world_size = get_dist_info()
        self._start = 0

    def order(self, epoch: int) -> np.ndarray:
        """Indices of all samples in the order of an epoch, (N,) int64, equal on all ranks."""
        if not self.shuffle:
            return np.arange(len(self.dataset))
        generator = torch.Generator().manual_seed(mix_seed(self.seed, epoch))
        return torch.randperm(len(self.dataset), generator=generator).numpy()

    def seeded(self, index: int, epoch: int, place: int) -> SeededIndex:
        """The index at a place of an epoch, with its seed."""
        return SeededIndex(int(index), mix_seed(self.seed, epoch, place))

    def skip(self, num_samples: int) -> None:
        """Let the next pass begin ``num_samples`` samples (of this rank) later."""
        if num_samples < 0:
            raise ValueError(f'cannot skip {num_samples} samples')
        self._start = num_samples


@DATA_SAMPLERS.register_module()
class FiberInfiniteSampler(_SeededSampler):
    """Endless stream of shuffled epochs, dealt out to the ranks; for training by iterations.

    Two processes with batch size B see the same samples per step as one with 2 B.

    Args:
        dataset: anything with a length.
        shuffle: whether each epoch has its own order.
        seed: seed of order and samples; None draws one that all ranks share.
    """

    def __iter__(self) -> Iterator[SeededIndex]:
        size = len(self.dataset)
        start, self._start = self._start, 0
        # Position in the stream of all ranks together.
        position = self.rank + start * self.world_size
        while True:
            epoch = position // size
            order = self.order(epoch)
            while position < (epoch + 1) * size:
                place = position - epoch * size
                yield self.seeded(order[place], epoch, place)
                position += self.world_size

    def __len__(self) -> int:
        return len(self.dataset)


@DATA_SAMPLERS.register_module()
class FiberEpochSampler(_SeededSampler):
    """One pass over the data set per epoch; for training by epochs.

    Args:
        dataset: anything with a length.
        shuffle: whether each epoch has its own order.
        seed: seed of order and samples; None draws one that all ranks share.
        round_up: whether the first samples are repeated so that every rank gets equally many.
    """

    def __init__(
        self,
        dataset: Sized,
        shuffle: bool = True,
        seed: int | None = None,
        round_up: bool = True,
    ) -> None:
        super().__init__(dataset, shuffle, seed)
        self.round_up = round_up
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[SeededIndex]:
        start, self._start = self._start, 0
        order = self.order(self.epoch)
        last = len(self) * self.world_size if self.round_up else len(order)
        for place in range(self.rank + start * self.world_size, last, self.world_size):
            yield self.seeded(order[place % len(order)], self.epoch, place)

    def __len__(self) -> int:
        size = len(self.dataset)
        if self.round_up:
            return -(-size // self.world_size)
        return len(range(self.rank, size, self.world_size))


@DATA_SAMPLERS.register_module()
class FiberAspectRatioBatchSampler(Sampler):
    """Batches of images at least as high as wide, and batches of wider ones, never mixed.

    As in the original, an epoch's last incomplete batch of each kind is dropped. Batches keep the
    order in which their first images come.

    Args:
        sampler: :class:`FiberInfiniteSampler` (endless) or :class:`FiberEpochSampler`.
        batch_size: images per batch and rank.
        drop_last: must be True; named so that configs of mmdet's class keep working.
    """

    def __init__(self, sampler: _SeededSampler, batch_size: int, drop_last: bool = True) -> None:
        if not isinstance(sampler, _SeededSampler):
            raise TypeError(
                'FiberAspectRatioBatchSampler needs a FiberInfiniteSampler or a '
                f'FiberEpochSampler, got {type(sampler).__name__}'
            )
        if not drop_last:
            raise ValueError('drop_last=False is not supported: incomplete batches are dropped')
        if batch_size < 1:
            raise ValueError(f'batch_size must be at least 1, got {batch_size}')
        self.sampler = sampler
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.portrait = _portrait_flags(sampler.dataset)
        group = batch_size * sampler.world_size
        counts = np.bincount(self.portrait.astype(np.int64), minlength=2)
        self._batches_per_epoch = int((counts // group).sum())
        if self._batches_per_epoch == 0:
            raise ValueError(
                f'{counts[0]} landscape and {counts[1]} portrait images do not fill one batch of '
                f'{group} images: use a smaller batch'
            )
        self._start = 0

    def __len__(self) -> int:
        return self._batches_per_epoch

    def skip_batches(self, num_batches: int) -> None:
        """Let the next pass begin ``num_batches`` batches later."""
        self._start = num_batches

    def __iter__(self) -> Iterator[list[SeededIndex]]:
        start, self._start = self._start, 0
        if isinstance(self.sampler, FiberEpochSampler):
            yield from self._epoch(self.sampler.epoch, start)
            return
        first, start = divmod(start, len(self))
        for epoch in itertools.count(first):
            yield from self._epoch(epoch, start)
            start = 0

    def _epoch(self, epoch: int, start: int) -> Iterator[list[SeededIndex]]:
        sampler, size = self.sampler, self.batch_size
        order = sampler.order(epoch)
        group = size * sampler.world_size
        batches = []
        for flag in (False, True):
            places = np.flatnonzero(self.portrait[order] == flag)
            batches.append(places[: len(places) // group * group].reshape(-1, group))
        places = np.concatenate(batches)
        places = places[np.argsort(places[:, 0])]
        mine = places[start:, sampler.rank :: sampler.world_size]
        for batch in mine:
            yield [sampler.seeded(order[place], epoch, int(place)) for place in batch]


@DATA_SAMPLERS.register_module()
class FiberSameImageBatchSampler(Sampler):
    """Batches of neighbouring samples of one image, for evaluating captions and expressions.

    A detector or heatmap model encodes the image of such a batch once (``encode_once`` in
    ``fiber_mm/models/utils/repeats.py``), and since all images of a batch have one size, none is
    padded: the numbers are those of batches of one. The data set must list the samples of an image
    one after the other, as MDETR's files do; what lies apart goes into batches of its own. On
    several ranks, to which samples are dealt out in turn, fewer share a batch.

    Args:
        sampler: With an order that stays, such as ``DefaultSampler(shuffle=False)``. Its data set
            knows ``get_data_info(index)['img_path']``.
        batch_size: Most samples per batch.
        drop_last: Must be False; there so that mmengine's loaders can give it.
    Raises:
        ValueError: For a sampler that shuffles, or sizes below 1.
    """

    def __init__(self, sampler: Sampler, batch_size: int, drop_last: bool = False) -> None:
        if getattr(sampler, 'shuffle', False):
            raise ValueError(
                'FiberSameImageBatchSampler needs an order that stays: set shuffle=False in '
                f'{type(sampler).__name__}'
            )
        if drop_last:
            raise ValueError('drop_last=True would leave out samples of an evaluation')
        if batch_size < 1:
            raise ValueError(f'batch_size must be at least 1, got {batch_size}')
        self.sampler = sampler
        self.batch_size = batch_size
        self.drop_last = drop_last
        self._batches: list[list[int]] | None = None

    def __len__(self) -> int:
        return len(self._all())

    def __iter__(self) -> Iterator[list[int]]:
        yield from self._all()

    def _all(self) -> list[list[int]]:
        if self._batches is None:
            get_info = self.sampler.dataset.get_data_info
            runs = itertools.groupby(self.sampler, lambda index: get_info(index)['img_path'])
            self._batches = [
                batch for _, run in runs for batch in _pieces(list(run), self.batch_size)
            ]
        return self._batches


def _pieces(items: list[int], size: int) -> list[list[int]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _portrait_flags(dataset: Any) -> np.ndarray:
    """(N,) bool: height / width >= 1, the original's two groups."""
    flags = np.zeros(len(dataset), dtype=bool)
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        if 'height' not in info or 'width' not in info:
            raise ValueError(
                f'sample {index} has no height and width in its annotation, which grouping by '
                f'aspect ratio needs; it has {sorted(info)}'
            )
        flags[index] = info['height'] >= info['width']
    return flags


def start_at(dataloader: DataLoader, num_batches: int) -> bool:
    """Let the next pass over a loader begin after ``num_batches`` batches, loading nothing.

    Returns:
        False if the loader's samplers cannot do that.
    """
    if hasattr(dataloader.batch_sampler, 'skip_batches'):
        dataloader.batch_sampler.skip_batches(num_batches)
        return True
    if hasattr(dataloader.dataset, 'skip_batches'):
        dataloader.dataset.skip_batches(num_batches, dataloader.batch_size)
        return True
    if hasattr(dataloader.sampler, 'skip') and dataloader.batch_size is not None:
        dataloader.sampler.skip(num_batches * dataloader.batch_size)
        return True
    return num_batches == 0


def samplers_of(dataloader: DataLoader) -> list[Sampler]:
    """The samplers of a loader: its own, the one inside its batch sampler, and a data set that is
    a stream and thus its own sampler."""
    inner = getattr(dataloader.batch_sampler, 'sampler', None)
    stream = dataloader.dataset if hasattr(dataloader.dataset, 'skip_batches') else None
    found = [dataloader.sampler, inner, stream]
    return [s for i, s in enumerate(found) if s is not None and s not in found[:i]]
