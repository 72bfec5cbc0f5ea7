"""Orders and seeds are pure functions of seed and position."""

from __future__ import annotations

import pickle
import random
from itertools import islice

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler
from torch.utils.data import DataLoader

from fiber_mm.engine import (
    FiberAspectRatioBatchSampler,
    FiberEpochSampler,
    FiberInfiniteSampler,
    FiberSameImageBatchSampler,
    FiberSeededDataset,
)
from fiber_mm.engine.data import SeededIndex, start_at
from fiber_mm.engine.randomness import cpu_seeded, mix_seed, seed_everything

from .toy_training import ToyDataset


def pairs(indices) -> list[tuple[int, int]]:
    return [(int(i), i.seed) for i in indices]


def on_ranks(monkeypatch, make, world: int) -> list:
    samplers = []
    for rank in range(world):
        monkeypatch.setattr('fiber_mm.engine.data.get_dist_info', lambda r=rank: (r, world))
        samplers.append(make())
    monkeypatch.undo()
    return samplers


def test_seeded_index_survives_a_trip_to_a_worker():
    index = pickle.loads(pickle.dumps(SeededIndex(5, seed=9)))
    assert (index, index.seed) == (5, 9)
    assert list(range(10))[index] == 5


def test_infinite_sampler_visits_all_once_per_epoch():
    stream = list(islice(FiberInfiniteSampler(range(5), seed=1), 15))
    assert all(sorted(stream[i : i + 5]) == list(range(5)) for i in (0, 5, 10))
    assert stream[:5] != stream[5:10] or stream[:5] != stream[10:]
    assert len({index.seed for index in stream}) == 15, 'no two visits share a seed'


def test_infinite_sampler_skips_to_any_place():
    stream = pairs(islice(FiberInfiniteSampler(range(5), seed=1), 30))
    for start in (0, 3, 5, 17):
        sampler = FiberInfiniteSampler(range(5), seed=1)
        sampler.skip(start)
        assert pairs(islice(sampler, 30 - start)) == stream[start:]


def test_ranks_share_out_the_stream(monkeypatch):
    stream = pairs(islice(FiberInfiniteSampler(range(5), seed=1), 12))
    ranks = on_ranks(monkeypatch, lambda: FiberInfiniteSampler(range(5), seed=1), world=2)
    for rank, sampler in enumerate(ranks):
        sampler.skip(2)
        assert pairs(islice(sampler, 4)) == stream[rank::2][2:]


def test_epoch_sampler(monkeypatch):
    sampler = FiberEpochSampler(range(7), seed=1)
    first = pairs(sampler)
    assert sorted(i for i, _ in first) == list(range(7))
    assert pairs(sampler) == first, 'the same epoch again'
    sampler.set_epoch(1)
    assert pairs(sampler) != first
    sampler.set_epoch(0)
    sampler.skip(4)
    assert pairs(sampler) == first[4:]
    assert pairs(sampler) == first, 'skipping holds for one pass'
    ranks = on_ranks(monkeypatch, lambda: FiberEpochSampler(range(7), seed=1), world=2)
    assert [len(list(s)) for s in ranks] == [len(s) for s in ranks] == [4, 4]
    assert {i for s in ranks for i in s} == set(range(7))
    uneven = on_ranks(
        monkeypatch, lambda: FiberEpochSampler(range(7), seed=1, round_up=False), world=2
    )
    assert [len(list(s)) for s in uneven] == [len(s) for s in uneven] == [4, 3]


def test_unshuffled_order():
    assert list(islice(FiberInfiniteSampler(range(3), shuffle=False, seed=1), 5)) == [0, 1, 2, 0, 1]


def test_aspect_batches_never_mix():
    dataset = ToyDataset(size=20)
    sampler = FiberAspectRatioBatchSampler(FiberEpochSampler(dataset, seed=1), batch_size=3)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 13 // 3 + 7 // 3
    for batch in batches:
        tall = {dataset.get_data_info(i)['height'] >= 15 for i in batch}
        assert len(tall) == 1
    used = [i for batch in batches for i in batch]
    assert len(set(used)) == len(used) == 18


def test_aspect_batches_of_ranks_are_disjoint_and_of_one_kind(monkeypatch):
    dataset = ToyDataset(size=20)

    def make():
        return FiberAspectRatioBatchSampler(FiberEpochSampler(dataset, seed=1), batch_size=2)

    one = FiberAspectRatioBatchSampler(FiberEpochSampler(dataset, seed=1), batch_size=4)
    ranks = [list(s) for s in on_ranks(monkeypatch, make, world=2)]
    for whole, first, second in zip(one, *ranks):
        assert sorted(pairs(first + second)) == sorted(pairs(whole))


@pytest.mark.parametrize('start', [0, 2, 6, 7, 15])
def test_aspect_batches_start_anywhere(start):
    def make():
        return FiberAspectRatioBatchSampler(FiberInfiniteSampler(ToyDataset(20), seed=1), 3)

    stream = [pairs(batch) for batch in islice(make(), 20)]
    sampler = make()
    sampler.skip_batches(start)
    assert [pairs(batch) for batch in islice(sampler, 20 - start)] == stream[start:]


def test_square_images_count_as_high():
    class Square(ToyDataset):
        def get_data_info(self, index):
            return dict(height=10, width=10)

    sampler = FiberAspectRatioBatchSampler(FiberEpochSampler(Square(4), seed=0), 2)
    assert sampler.portrait.all()


class Captions:
    """Five captions of image a, one of b, three of c."""

    paths = 'aaaaabccc'

    def __len__(self):
        return len(self.paths)

    def get_data_info(self, index):
        return dict(img_path=self.paths[index])


def test_texts_of_an_image_share_a_batch():
    sampler = FiberSameImageBatchSampler(DefaultSampler(Captions(), shuffle=False), 4)
    assert len(sampler) == 4
    assert list(sampler) == [[0, 1, 2, 3], [4], [5], [6, 7, 8]]
    assert list(sampler) == [[0, 1, 2, 3], [4], [5], [6, 7, 8]], 'the next pass is the same'


def test_texts_of_an_image_on_two_ranks(monkeypatch):
    batches = []
    for rank in range(2):
        monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', lambda r=rank: (r, 2))
        batches.append(list(FiberSameImageBatchSampler(DefaultSampler(Captions(), False), 4)))
    assert batches == [[[0, 2, 4], [6, 8]], [[1, 3], [5], [7], [0]]]


def test_batches_of_texts_need_an_order_that_stays():
    with pytest.raises(ValueError, match='set shuffle=False in DefaultSampler'):
        FiberSameImageBatchSampler(DefaultSampler(Captions(), shuffle=True, seed=0), 4)
    with pytest.raises(ValueError, match='at least 1, got 0'):
        FiberSameImageBatchSampler(DefaultSampler(Captions(), shuffle=False), 0)
    with pytest.raises(ValueError, match='leave out samples'):
        FiberSameImageBatchSampler(DefaultSampler(Captions(), shuffle=False), 4, drop_last=True)


def test_bad_samplers():
    with pytest.raises(ValueError, match='empty'):
        FiberInfiniteSampler([])
    with pytest.raises(ValueError, match='-1'):
        FiberInfiniteSampler(range(2), seed=0).skip(-1)
    epochs = FiberEpochSampler(ToyDataset(4), seed=0)
    with pytest.raises(ValueError, match='smaller batch'):
        FiberAspectRatioBatchSampler(epochs, 9)
    with pytest.raises(ValueError, match='drop_last'):
        FiberAspectRatioBatchSampler(epochs, 2, drop_last=False)
    with pytest.raises(ValueError, match='at least 1'):
        FiberAspectRatioBatchSampler(epochs, 0)
    with pytest.raises(TypeError, match='SequentialSampler'):
        FiberAspectRatioBatchSampler(torch.utils.data.SequentialSampler(range(3)), 2)

    class NoSize(ToyDataset):
        def get_data_info(self, index):
            return dict(img_path='x')

    with pytest.raises(ValueError, match=r"height and width.*\['img_path'\]"):
        FiberAspectRatioBatchSampler(FiberEpochSampler(NoSize(4), seed=0), 2)


def test_seeded_dataset_draws_by_the_index_alone():
    dataset = FiberSeededDataset(dict(type='ToyDataset'))
    seed_everything(1)
    first = dataset[SeededIndex(3, seed=7)]['inputs']
    after = (random.random(), np.random.rand(), torch.rand(()))  # noqa: NPY002
    seed_everything(2)
    assert torch.equal(dataset[SeededIndex(3, seed=7)]['inputs'], first)
    assert not torch.equal(dataset[SeededIndex(3, seed=8)]['inputs'], first)
    seed_everything(1)
    now = (random.random(), np.random.rand(), torch.rand(()))  # noqa: NPY002
    assert now == after, 'the generators outside are left alone'


def test_seeded_dataset_is_the_dataset():
    dataset = FiberSeededDataset(ToyDataset(size=5))
    assert len(dataset) == 5
    assert dataset.metainfo == dict(name='toy')
    assert dataset.get_data_info(1)['width'] == 15
    assert pickle.loads(pickle.dumps(dataset)).size == 5
    dataset.size = 3
    assert dataset.dataset.size == len(dataset) == 3
    with pytest.raises(AttributeError, match='nothing'):
        dataset.nothing  # noqa: B018


def test_start_at_loads_nothing():
    loaded = []

    class Noted(ToyDataset):
        def __getitem__(self, index):
            loaded.append(int(index))
            return int(index)

    dataset = Noted(12)
    loader = DataLoader(dataset, batch_size=4, sampler=FiberEpochSampler(dataset, seed=0))
    assert start_at(loader, 2)
    assert len(list(loader)) == 1
    assert len(loaded) == 4
    assert not start_at(DataLoader(dataset, batch_size=4), 2)
    assert start_at(DataLoader(dataset, batch_size=4), 0)


def test_seeds():
    seeds = {mix_seed(a, b) for a in range(30) for b in range(30)}
    assert len(seeds) == 900
    assert all(0 <= seed < 2**63 for seed in seeds)
    with cpu_seeded(5):
        inside = torch.rand(2)
    with cpu_seeded(5):
        assert torch.equal(torch.rand(2), inside)
