"""Captioned images in WebDataset tar shards, read as an endless stream that can start anywhere.

The order is a pure function of the seed: every epoch has its own order of the shards, which are
dealt out to the streams (one per rank and worker), and each stream shuffles its pairs in a buffer.
A resumed run therefore needs no state: it passes over what was read before, without decoding it,
and does not read epochs whose number of pairs an index tells, or an earlier pass.
"""

from __future__ import annotations

import glob
import json
import os.path as osp
import random
import sys
import tarfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from mmengine.dataset import Compose
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import IterableDataset, get_worker_info

from fiber_mm.engine.randomness import cpu_seeded, mix_seed
from fiber_mm.registry import DATASETS

from .image_text import MOST_UNREADABLE, UNREADABLE, check_on_error
from .transforms.boxes import DropCounter
from .transforms.image import UnreadableImageError
from .writers import INDEX, read_index

IMAGE_SUFFIXES = ('jpg', 'jpeg', 'png', 'webp')


def import_webdataset() -> ModuleType:
    """The optional webdataset.

    Raises:
        ModuleNotFoundError: if it is not installed; says how to get it.
    """
    try:
        import webdataset
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'tar shards need webdataset: pip install webdataset, or '
            'pip install "fiber_mm[optional]"'
        ) from error
    return webdataset


class _Unit(NamedTuple):
    """What one stream reads of a shard: every ``step``-th sample, from ``part`` on."""

    shard: str
    part: int
    step: int


@DATASETS.register_module()
class FiberShardDataset(IterableDataset):
    """An endless training stream of (image, caption) pairs from tar shards.

    A sample of a shard is an image (``KEY.jpg``, ``.jpeg``, ``.png`` or ``.webp``) and its caption
    in ``KEY.txt``, or several in the list ``captions`` of ``KEY.json``: the layout of img2dataset
    and of ``tools/dataset_converters``. Each caption makes a pair. The samples that come out are
    those of :class:`FiberImageTextDataset`, without ``image_index``.

    Goes into a loader with ``sampler=None`` and a loop by iterations. With ``FiberIterTrainLoop``
    a resumed run continues with the next sample, if it has as many ranks, workers and samples per
    batch as before. Each stream passes over its share of the shards epoch by epoch, for itself.

    Args:
        shards: Files, folders, patterns with ``*``, addresses with ``{000000..000999}`` (also
            ``pipe:`` and ``https:``, as WebDataset reads them), or a list of such.
        data_root: Joined with relative paths.
        pipeline: Transforms.
        shuffle: Whether shards and pairs are shuffled.
        buffer: Pairs (encoded) that a stream shuffles among.
        seed: Seed of order and augmentation; None draws one that all ranks share.
        on_error: ``'raise'``: unreadable images and samples without caption or image are errors.
            ``'skip'``: the latter are left out, and for an unreadable image the next readable one
            is taken (a second time); both are counted in the log. A shard whose index counts pairs
            keeps their number: its last one makes up for those left out. A shard that is cut is an
            error in any case.
        test_mode: Must be False: evaluate from Karpathy's JSON or arrow tables.

    Raises:
        FileNotFoundError: if there is no shard.
        ValueError: for faulty settings, a cut shard, and faulty samples.
    """

    endless = True

    def __init__(
        self,
        shards: str | Sequence[str],
        data_root: str = '',
        pipeline: Sequence = (),
        shuffle: bool = True,
        buffer: int = 1000,
        seed: int | None = None,
        on_error: str = 'raise',
        test_mode: bool = False,
    ) -> None:
        check_on_error(on_error, test_mode)
        if test_mode:
            raise ValueError(
                'shards are a stream for training; evaluate (test_mode=True) with '
                'FiberKarpathyDataset or FiberArrowDataset'
            )
        if buffer < 1:
            raise ValueError(f'buffer must be at least 1, got {buffer}')
        import_webdataset()
        self.shards = find_shards(shards, data_root)
        self.counts = read_counts(self.shards)
        self.pipeline = Compose(pipeline)
        self.shuffle, self.buffer, self.on_error = shuffle, buffer, on_error
        self.seed = sync_random_seed() if seed is None else seed
        self.rank, self.world_size = get_dist_info()
        self.metainfo: dict[str, Any] = {}
        self.unreadable = DropCounter('samples with an unreadable image')
        self.faulty = DropCounter('samples without caption or image')
        self._batches, self._batch_size = 0, 1
        # pairs of a shard by part, of those that were read to their end; by shard and step
        self._sizes: dict[tuple[str, int], list[int]] = {}

    # -- what loaders and loops ask for --

    def __len__(self) -> int:
        """No end: runners and hooks of mmengine ask, and PyTorch warns of a stream that goes on."""
        return sys.maxsize

    @property
    def pairs_per_epoch(self) -> int | None:
        """Pairs of a rank per epoch; None if the indices of the shards do not say how many."""
        pairs = [self.counts.get(shard, (0, None))[1] for shard in self.shards]
        return None if None in pairs else sum(pairs) // self.world_size

    @property
    def full_init(self) -> None:
        """What wrappers of data sets ask for, and a stream does not have.

        Raises: AttributeError: always.
        """
        raise AttributeError(
            'a stream of shards cannot be wrapped or concatenated (ConcatDataset, RepeatDataset): '
            'name all shards in one list, or convert everything to arrow tables '
            '(tools/dataset_converters)'
        )

    def skip_batches(self, num_batches: int, batch_size: int) -> None:
        """Let the next pass begin ``num_batches`` batches (of this rank) later."""
        self._batches, self._batch_size = num_batches, batch_size

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        batches, self._batches = self._batches, 0
        # Workers take turns, in every pass from the first one on: the next batch after 5 batches of
        # 2 workers is that of stream 1, now made by worker 0.
        worker = (worker + batches) % workers
        start = len(range(worker, batches, workers)) * self._batch_size
        stream = self.rank * workers + worker
        yield from self._samples(stream, self.world_size * workers, start)

    # -- the stream --

    def _samples(self, stream: int, streams: int, start: int) -> Iterator[Any]:
        """Samples of one stream from a place on.

        The sample at a place is made of the first readable pair from there on, so that it does not
        depend on where the stream began.
        """
        owed: list[int] = []
        for pair, seed in self.pairs(stream, streams, start):
            owed.append(seed)
            try:
                samples = [self._make(pair, seed) for seed in owed]
            except UNREADABLE as error:
                if self.on_error == 'raise':
                    raise
                self.unreadable.add(1, str(error))
                if len(owed) >= MOST_UNREADABLE:
                    raise UnreadableImageError(
                        f'{len(owed)} images in a row cannot be read; the last: {error}'
                    ) from error
                continue
            owed = []
            yield from samples

    def _make(self, pair: dict, seed: int) -> Any:
        with cpu_seeded(seed):
            return self.pipeline(dict(pair))

    def pairs(self, stream: int, streams: int, start: int = 0) -> Iterator[tuple[dict, int]]:
        """Undecoded pairs of one of all streams, and the seed of each place.

        Args:
            stream, streams: Number of this stream, and how many there are.
            start: Pairs to pass over.
        """
        epoch, left = 0, start
        while True:
            units = self.units(epoch, stream, streams)
            whole = self._known(units, left) if left else None
            if whole:
                left, epoch = left - whole, epoch + 1
                continue
            rng = random.Random(mix_seed(self.seed, epoch, stream))
            pairs: Iterable[dict] = (pair for unit in units for pair in self._read(unit))
            if self.shuffle:
                shuffle = import_webdataset().shuffle
                pairs = shuffle(self.buffer, initial=self.buffer, rng=rng)(iter(pairs))
            place = -1
            for place, pair in enumerate(pairs):
                if place >= left:
                    yield pair, mix_seed(self.seed, epoch, stream, place)
            if place < 0:
                raise ValueError(
                    f'stream {stream} of {streams} has no pair in {[u.shard for u in units]}: use '
                    'fewer workers or smaller shards'
                )
            left, epoch = max(0, left - place - 1), epoch + 1

    def units(self, epoch: int, stream: int, streams: int) -> list[_Unit]:
        """What a stream reads in an epoch; all streams together read each sample once."""
        # With fewer shards than streams several of them read a shard, each another part.
        step = -(-streams // len(self.shards))
        units = [_Unit(shard, part, step) for shard in self.shards for part in range(step)]
        if self.shuffle:
            rng = np.random.default_rng(mix_seed(self.seed, epoch))
            units = [units[i] for i in rng.permutation(len(units))]
        return units[stream::streams]

    def _known(self, units: list[_Unit], most: int) -> int | None:
        """Pairs of some units, if they are at most ``most`` and need not be passed over.

        Units that are not known yet are read once for it, unless none is known: to pass over them
        costs no more then.
        """
        sizes = [self._size(unit) for unit in units]
        unknown = [unit for unit, size in zip(units, sizes) if size is None]
        if len(unknown) == len(units):
            return None
        total = sum(size for size in sizes if size is not None)
        for unit in unknown:
            if total > most:
                break
            if self._size(unit) is None:  # no other part of its shard was read just now
                deque(self._read(unit), maxlen=0)
            total += self._size(unit)
        return total if total <= most else None

    def _size(self, unit: _Unit) -> int | None:
        """Pairs of a unit, if the index or an earlier reading tells."""
        size = self._indexed(unit)
        if size is None and (unit.shard, unit.step) in self._sizes:
            size = self._sizes[unit.shard, unit.step][unit.part]
        return size

    def _indexed(self, unit: _Unit) -> int | None:
        """Pairs of a unit, if the index tells."""
        samples, pairs = self.counts.get(unit.shard, (0, None))
        if samples == pairs:
            return len(range(unit.part, samples, unit.step))
        return pairs if unit.step == 1 else None

    def _read(self, unit: _Unit) -> Iterator[dict]:
        """Pairs of a unit: as many as the index tells, where it does.

        With fewer, an epoch would be shorter than a resumed run takes it for, which passes over it
        by the index. So the last pair of the shard makes up for those that are left out.
        """
        number, faults, last, sizes = -1, 0, {}, [0] * unit.step
        for number, sample in enumerate(read_shard(unit.shard)):
            pairs, wrong = pairs_of(unit.shard, sample)
            sizes[number % unit.step] += len(pairs)
            faults += len(wrong)
            last = pairs[-1] if pairs else last
            if number % unit.step == unit.part:
                for message in wrong:
                    self._fault(message)
                yield from pairs
        self._sizes[unit.shard, unit.step] = sizes
        wanted = self._indexed(unit)
        missing = 0 if wanted is None else wanted - sizes[unit.part]
        self._check(unit.shard, number + 1, sum(sizes), faults, missing)
        for _ in range(missing):
            yield last

    def _check(self, shard: str, samples: int, pairs: int, faults: int, missing: int) -> None:
        """Hold what was read of a shard to the index."""
        wanted, total = self.counts.get(shard, (samples, None))
        left_out = faults and 0 < pairs < (total or 0)
        if samples != wanted:
            seen = f'{samples} samples'
        elif total is not None and (missing < 0 or (pairs != total and not left_out)):
            seen, wanted = f'{pairs} pairs', total
        else:
            return
        raise ValueError(
            f'{shard} has {seen}, its {INDEX} says {wanted}: the shard is cut or was replaced; '
            f'write it again, or take it out of {INDEX}'
        )

    def _fault(self, message: str) -> None:
        if self.on_error == 'raise':
            raise ValueError(f"{message}; leave such ones out with on_error='skip'")
        self.faulty.add(1, message)


def pairs_of(shard: str, sample: dict) -> tuple[list[dict], list[str]]:
    """The pairs of a sample, and what is wrong with it.

    Args:
        shard: For messages.
        sample: see :func:`read_shard`.

    Returns:
        Pairs with img_path, img_bytes, image_id, text, text_id; messages.
    """
    key = sample['__key__']
    suffix = next((s for s in IMAGE_SUFFIXES if s in sample), None)
    try:
        about = json.loads(sample['json']) if 'json' in sample else {}
    except ValueError as error:
        return [], [f'{shard}: {key}.json is no JSON: {error}']
    if not isinstance(about, dict):
        return [], [f'{shard}: {key}.json is no JSON object, but {str(about)[:40]}']
    captions = about.get('captions')
    if not isinstance(captions, list):
        try:
            captions = [sample['txt'].decode()] if 'txt' in sample else []
        except UnicodeDecodeError as error:
            return [], [f'{shard}: {key}.txt is no UTF-8 text: {error}']
    if suffix is None or not captions:
        there = sorted(name for name in sample if not name.startswith('__'))
        what = 'image' if suffix is None else 'caption'
        return [], [f'{shard}: {key} has no {what}, only {there}']
    pairs, faults = [], []
    for place, text in enumerate(captions):
        if not isinstance(text, str) or not text.strip():
            faults.append(f'{shard}: caption {place} of {key} is empty: {text!r}')
        elif text not in captions[:place]:
            pairs.append(
                dict(
                    img_path=f'{shard} ({key}.{suffix})',
                    img_bytes=sample[suffix],
                    image_id=about.get('image_id', key),
                    text=text,
                    text_id=f'{key}/{place}',
                )
            )
    return pairs, faults


def find_shards(shards: str | Sequence[str], data_root: str = '') -> list[str]:
    """Addresses of shards; see :class:`FiberShardDataset`.

    Raises:
        FileNotFoundError: if one is not there, or a folder or pattern has none.
        ValueError: if one is given twice.
    """
    from braceexpand import braceexpand

    found: list[str] = []
    for entry in [shards] if isinstance(shards, str) else shards:
        for name in braceexpand(entry):
            if ':' in name.split('/')[0]:
                found.append(name)
                continue
            path = osp.join(data_root, name)
            if osp.isdir(path):
                path = osp.join(path, '*.tar')
            paths = sorted(glob.glob(path)) if '*' in path else [path]
            if not paths or not osp.isfile(paths[0]):
                raise FileNotFoundError(f'there is no shard {path}')
            found += paths
    if not found:
        raise FileNotFoundError(f'no shards given: {shards!r}')
    doubled = {path for path in found if found.count(path) > 1} if len(set(found)) < len(found) \
        else set()  # fmt: skip
    if doubled:
        raise ValueError(f'shards are given twice: {sorted(doubled)[:4]}')
    return found


def read_counts(shards: Sequence[str]) -> dict[str, tuple[int, int | None]]:
    """(samples, pairs) of the shards that an ``index.json`` beside them lists.

    Pairs are None where the index, made by another program, counts samples alone: one may have
    several captions.
    """
    counts = {}
    for folder in sorted({osp.dirname(shard) for shard in shards}):
        for row in read_index(osp.join(folder, INDEX)):
            counts[osp.join(folder, row['url'])] = (row['nsamples'], row.get('npairs'))
    return {shard: counts[shard] for shard in shards if shard in counts}


def read_shard(shard: str) -> Iterator[dict]:
    """Samples of a shard: ``__key__`` and the contents of its files by suffix.

    Raises:
        ValueError: if it is cut, no tar file, or has a sample twice; names it.
    """
    check_end(shard)
    keys = set()
    try:
        for sample in import_webdataset().tariterators.tarfile_samples(iter([dict(url=shard)])):
            if sample['__key__'] in keys:
                raise ValueError(f'the key {sample["__key__"]} is there twice')
            keys.add(sample['__key__'])
            yield sample
    except (tarfile.TarError, EOFError, ValueError) as error:
        message = error.args[0] if error.args else error
        raise ValueError(
            f'{shard} is cut, or no tar file of samples, after {len(keys)} samples: {message}; '
            'write or copy it again'
        ) from error


def check_end(shard: str) -> None:
    """Find a local tar file that was cut between two members, which readers take for its end.

    Raises:
        ValueError: if the zeros that end a tar file are missing.
    """
    if not shard.endswith('.tar') or not osp.isfile(shard):
        return
    with open(shard, 'rb') as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 1024))
        if size < 1024 or file.read().strip(b'\0'):
            raise ValueError(
                f'{shard} ({size} bytes) does not end as a tar file does: it is cut; write or '
                'copy it again'
            )
