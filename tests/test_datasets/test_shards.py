"""Tar shards: endless, dealt out to ranks and workers, resumed with the next sample."""

import io
import json
import shutil
import tarfile
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from test_engine import toy_training as toy
from torch.utils.data import DataLoader

from fiber_mm.datasets.shards import FiberShardDataset, check_end, find_shards, read_shard
from fiber_mm.datasets.writers import ShardWriter
from fiber_mm.engine.data import samplers_of, start_at
from fiber_mm.engine.launch import launch
from fiber_mm.engine.runner import FiberRunner
from fiber_mm.registry import TRANSFORMS

from .caption_data import PIPELINE, jpeg, number_of

IMAGES, PER_SHARD = 22, 4  # six shards
NAMES = [f'{i:06d}' for i in range(IMAGES)]


def captions_of(number):
    return [f'caption {number} {k}' for k in range(1 + number % 3)]


PAIRS = [text for number in range(IMAGES) for text in captions_of(number)]


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp('shards')
    with ShardWriter(folder, 'train', PER_SHARD) as writer:
        for number, name in enumerate(NAMES):
            writer.add(name, jpeg(number), captions_of(number), number, 'png')
    return folder


def make(folder, **options):
    options = {'pipeline': PIPELINE, 'seed': 3, 'buffer': 8, **options}
    return FiberShardDataset('train-*.tar', str(folder), **options)


def texts(dataset, stream=0, streams=1, start=0, count=None):
    count = len(PAIRS) if count is None else count
    return [pair['text'] for pair, _ in islice(dataset.pairs(stream, streams, start), count)]


def tar(path, members):
    """A tar file of (name, content)."""
    with tarfile.open(path, 'w') as file:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return str(path)


# --- files ---


def test_what_the_writer_writes(written):
    assert sorted(p.name for p in written.iterdir()) == [
        'index.json',
        *(f'train-{i:06d}.tar' for i in range(6)),
    ]
    sample = next(read_shard(str(written / 'train-000001.tar')))
    assert sample['__key__'] == '000004'
    assert sample['png'] == jpeg(4)
    assert sample['txt'] == b'caption 4 0'
    assert json.loads(sample['json']) == {
        'captions': ['caption 4 0', 'caption 4 1'],
        'image_id': 4,
    }
    index = json.loads((written / 'index.json').read_text())['shardlist']
    assert [row['nsamples'] for row in index] == [4, 4, 4, 4, 4, 2]
    assert sum(row['npairs'] for row in index) == len(PAIRS)


def test_finding_shards(written, tmp_path):
    all_six = [str(written / f'train-{i:06d}.tar') for i in range(6)]
    assert find_shards('.', str(written))[0].endswith('train-000000.tar')
    assert find_shards(str(written)) == all_six
    assert find_shards('train-{000000..000005}.tar', str(written)) == all_six
    assert find_shards(['train-00000[01].tar*', 'train-000005.tar'], str(written)) == [
        all_six[0], all_six[1], all_six[5]]  # fmt: skip
    address = 'https://example.com/{00..02}.tar'
    assert find_shards(address)[2] == 'https://example.com/02.tar'
    assert find_shards('pipe:cat {0..1}.tar') == ['pipe:cat 0.tar', 'pipe:cat 1.tar']
    with pytest.raises(FileNotFoundError, match=r'no shard .*train-000009'):
        find_shards('train-00000{5,9}.tar', str(written))
    with pytest.raises(FileNotFoundError, match='no shard'):
        find_shards(str(tmp_path))
    with pytest.raises(ValueError, match='given twice'):
        find_shards(['train-*.tar', 'train-000001.tar'], str(written))


# --- order ---


def test_an_epoch_has_every_pair_once_in_an_order_of_its_own(written):
    dataset = make(written)
    n = len(PAIRS)
    stream = texts(dataset, count=3 * n)
    epochs = [stream[:n], stream[n : 2 * n], stream[2 * n :]]
    assert all(sorted(epoch) == sorted(PAIRS) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert texts(make(written)) == epochs[0]
    assert texts(make(written, seed=4)) != epochs[0]
    assert dataset.pairs_per_epoch == n
    assert texts(make(written, shuffle=False), count=2 * n) == 2 * PAIRS


def test_samples_are_mixed_over_shards(written):
    """A buffer that holds an epoch leaves no trace of the shards."""
    first = [int(t.split()[1]) // PER_SHARD for t in texts(make(written, buffer=100))[:12]]
    assert len(set(first)) > 3


@pytest.mark.parametrize('streams', [2, 3, 5, 8])
def test_streams_share_an_epoch(written, streams):
    """Also more streams than shards (six): some then read the same shard, other samples of it."""
    dataset = make(written)
    found = []
    for stream in range(streams):
        units = dataset.units(0, stream, streams)
        assert units
        found += [pair['text'] for unit in units for pair in dataset._read(unit)]
    assert sorted(found) == sorted(PAIRS)


def test_more_streams_than_samples(written):
    dataset = make(written)
    empty = [i for i in range(100) if all(u.part >= 4 for u in dataset.units(0, i, 100))]
    with pytest.raises(ValueError, match='has no pair in .*fewer workers'):
        next(dataset.pairs(empty[0], 100))


def write_index_of(kind, folder):
    """The index of another program, which counts samples alone; or none."""
    path = folder / 'index.json'
    if kind == 'foreign':
        content = json.loads(path.read_text())
        for row in content['shardlist']:
            del row['npairs']
        path.write_text(json.dumps(content))
    elif kind == 'none':
        path.unlink()


def damage(folder, keys):
    """Samples without a usable caption, in shards whose index is older."""
    for path in sorted(folder.glob('*.tar')):
        with tarfile.open(path) as file:
            members = [(m.name, file.extractfile(m).read()) for m in file]
        for number, (name, _) in enumerate(members):
            if name.endswith('.json') and name.split('.')[0] in keys:
                members[number] = (name, b'{')
        tar(path, members)


@pytest.fixture
def copied(written, tmp_path):
    return Path(shutil.copytree(written, tmp_path / 'copied'))


@pytest.fixture
def read(monkeypatch):
    """Shards that are read from here on."""
    shards = []
    monkeypatch.setattr(
        'fiber_mm.datasets.shards.read_shard',
        lambda shard: shards.append(shard) or read_shard(shard),
    )
    return shards


@pytest.mark.parametrize('damaged', [False, True])
@pytest.mark.parametrize('index', ['own', 'foreign', 'none'])
@pytest.mark.parametrize('streams', [1, 2, 8])
def test_starting_anywhere(copied, streams, index, damaged):
    """With or without knowing the sizes of shards, and over the ends of epochs."""
    if damaged:
        damage(copied, {NAMES[3], NAMES[9], NAMES[10], NAMES[21]})
    write_index_of(index, copied)
    options = {'on_error': 'skip'} if damaged else {}
    stream = 1 % streams
    whole = list(islice(make(copied, **options).pairs(stream, streams), 230))
    for start in (1, 7, 29, 44, 45, 100, 200):
        resumed = make(copied, **options).pairs(stream, streams, start)
        assert list(islice(resumed, 30)) == whole[start : start + 30]


@pytest.mark.parametrize('on_error', ['raise', 'skip'])
@pytest.mark.parametrize('streams', [1, 4])
def test_epochs_that_are_known_are_not_read(written, read, streams, on_error):
    dataset = make(written, on_error=on_error)
    texts(dataset, 0, streams, start=1000 * len(PAIRS), count=3)
    assert len(read) <= len(dataset.units(0, 0, streams))


@pytest.mark.parametrize('index', ['own', 'foreign', 'none'])
@pytest.mark.parametrize('streams', [1, 4, 8, 12])
def test_epochs_that_are_not_known_are_read_once(copied, read, streams, index):
    """Not told by the index: one without pairs, or several captions and parts of shards."""
    write_index_of(index, copied)
    dataset = make(copied, on_error='skip')
    units = max(len(dataset.units(epoch, 0, streams)) for epoch in range(100))
    texts(dataset, 0, streams, start=100 * len(PAIRS), count=1)
    assert len(read) <= len(dataset.shards) + units
    read.clear()
    texts(dataset, 0, streams, start=200 * len(PAIRS), count=1)
    assert len(read) <= units


def test_the_first_epoch_is_not_read_twice(copied, read):
    write_index_of('none', copied)
    texts(make(copied, buffer=1), start=len(PAIRS) // 2, count=3)
    assert len(read) < 6


def test_an_index_without_pairs(copied, tmp_path):
    write_index_of('foreign', copied)
    dataset = make(copied)
    assert dataset.pairs_per_epoch is None
    tar(copied / 'train-000002.tar', [('a.png', jpeg(1)), ('a.txt', b'x')])
    with pytest.raises(
        ValueError, match=r'train-000002\.tar has 1 samples, its index\.json says 4'
    ):
        texts(dataset)
    write_index_of('none', copied)
    assert make(copied).pairs_per_epoch is None


def test_an_epoch_keeps_the_length_of_its_index(copied):
    """What is left out is made up for, or a resumed run would not know where it is."""
    damage(copied, {NAMES[4], NAMES[6]})  # with two captions and one
    first = texts(make(copied, shuffle=False, on_error='skip'))
    assert [t for t in first if t.split()[1] in '4567'] == ['caption 5 0', 'caption 5 1',
            'caption 5 2', 'caption 7 0', 'caption 7 1', *['caption 7 1'] * 3]  # fmt: skip
    assert texts(make(copied, shuffle=False, on_error='skip'), count=2 * len(PAIRS)) == 2 * first


@pytest.mark.parametrize('streams', [1, 5])
def test_a_part_of_a_shard_keeps_its_length(tmp_path, streams):
    """Of shards with a caption per image the index tells it; one part has nothing usable."""
    with ShardWriter(tmp_path, 'train', 5) as writer:
        for number, name in enumerate(NAMES[:15]):
            writer.add(name, jpeg(number), [f'caption {number}'], number, 'png')
    damage(tmp_path, {NAMES[0], NAMES[2], NAMES[4]})
    for stream in range(streams):
        whole = texts(make(tmp_path, on_error='skip'), stream, streams, count=60)
        for start in (3, 17, 40):
            again = texts(make(tmp_path, on_error='skip'), stream, streams, start, 20)
            assert again == whole[start : start + 20]
    damage(tmp_path, NAMES[:5])
    with pytest.raises(ValueError, match=r'train-000000\.tar has 0 pairs, its index\.json says 5'):
        texts(make(tmp_path, on_error='skip'))


@pytest.mark.parametrize('on_error', ['raise', 'skip'])
@pytest.mark.parametrize('streams', [1, 8])
def test_other_pairs_than_those_of_the_index(copied, on_error, streams):
    path = copied / 'index.json'
    content = json.loads(path.read_text())
    content['shardlist'][1]['npairs'] -= 1
    path.write_text(json.dumps(content))
    dataset = make(copied, on_error=on_error)
    stream = next(
        i for i in range(streams) if '000001' in str(dataset.units(0, i, streams)[0].shard)
    ) if streams > 1 else 0  # fmt: skip
    with pytest.raises(ValueError, match=r'train-000001\.tar has 8 pairs, its index\.json says 7'):
        texts(dataset, stream, streams)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'{"shardlist": [', r'index\.json is no complete JSON .*remove or rename it'),
        (b'\xff', r'index\.json is no complete JSON'),
        (b'{"version": 1, "generation": 3}', r'index\.json is no index of shards.*shardlist'),
        (b'[]', r'index\.json is no index of shards'),
        (b'{"shardlist": [{"url": "train-0.tar"}]}', r"index\.json lists the shard \{'url'.*nsam"),
        (b'{"shardlist": [{"url": "a", "nsamples": 1, "npairs": "1"}]}', "'npairs' is a number"),
    ],
)
def test_faulty_indices(copied, content, message):
    (copied / 'index.json').write_bytes(content)
    with pytest.raises(ValueError, match=message):
        make(copied)
    before = sorted(copied.iterdir())
    with pytest.raises(ValueError, match=message), ShardWriter(copied, 'more') as writer:
        writer.add('a', jpeg(1), ['a'], 1)  # not reached: refused before the work
    assert sorted(copied.iterdir()) == before


# --- loaders ---


def batches(dataset, workers, start=0, count=20, batch_size=3):
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=lambda batch: batch,
        # In processes from a server, workers would be from one, too, and import everything.
        multiprocessing_context='fork' if workers else None,
    )
    assert start_at(loader, start)
    out = []
    for batch in islice(loader, count):
        out.append([(s['data_samples'].text, number_of(s)) for s in batch])
    return out


@pytest.mark.filterwarnings('ignore:This DataLoader will create')
@pytest.mark.parametrize('workers', [0, 2, 3])
def test_a_resumed_loader_continues_with_the_next_batch(written, workers):
    whole = batches(make(written), workers, 0, 40)
    assert all(len(batch) == 3 for batch in whole)
    for start in (1, 5, 16):
        assert batches(make(written), workers, start, 40 - start) == whole[start:]
    assert all(int(text.split()[1]) == number for batch in whole for text, number in batch)


@pytest.mark.filterwarnings('ignore:This DataLoader will create')
def test_ranks_read_different_samples(written):
    seen = []
    for rank in range(2):
        dataset = make(written)
        dataset.rank, dataset.world_size = rank, 2
        assert dataset.pairs_per_epoch == len(PAIRS) // 2
        units = [u for worker in range(2) for u in dataset.units(0, 2 * rank + worker, 4)]
        seen.append({(u.shard, u.part) for u in units})
        assert batches(dataset, 2, 4, 3) == batches(dataset, 2, 0, 7)[4:]
    assert not seen[0] & seen[1]
    assert len(seen[0] | seen[1]) == 6


def _texts_of_all_ranks(folder, count):
    """Runs in each process of a group: the first samples of its loader with two workers."""
    torch.distributed.init_process_group('gloo')
    mine = [text for batch in batches(make(folder), 2, 0, count, 1) for text, _ in batch]
    everyone = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, mine)
    torch.distributed.destroy_process_group()
    return everyone


@pytest.mark.slow
def test_two_ranks_with_two_workers_share_an_epoch(written, quick_launch):
    dataset = make(written)
    streams = [[p for u in dataset.units(0, i, 4) for p in dataset._read(u)] for i in range(4)]
    count = 2 * min(map(len, streams))  # a loader asks its workers in turn
    assert count >= 10
    drawn = launch(_texts_of_all_ranks, written, count, processes=2)
    assert [len(texts) for texts in drawn] == [count, count]
    assert len(set(drawn[0] + drawn[1])) == 2 * count


def test_augmentation_is_that_of_the_place(written):
    pipeline = [PIPELINE[0], {'type': 'FiberRandomResizedCrop', 'size': 8},
                {'type': 'FiberRandAugment', 'prob': 1.0}, PIPELINE[2]]  # fmt: skip
    dataset = make(written, pipeline=pipeline)

    def pixels(start, count):
        samples = islice(dataset._samples(0, 1, start), count)
        return [s['inputs'].numpy().tobytes() for s in samples]

    assert pixels(10, 20) == pixels(0, 30)[10:]
    assert pixels(0, 1) != pixels(len(PAIRS), 1)


def test_built_by_the_runner(written):
    loader = FiberRunner.build_dataloader(
        {
            'dataset': {'type': 'FiberShardDataset', 'shards': str(written), 'pipeline': PIPELINE},
            'sampler': None,
            'batch_size': 4,
            'num_workers': 0,
        },
        seed=5,
    )
    assert loader.dataset in samplers_of(loader)  # gets the run's seed from the loop
    batch = next(iter(loader))
    assert len(batch['data_samples']) == 4


@TRANSFORMS.register_module()
class ToyPoint:
    """The number of an image beside random numbers, for the toy model."""

    def __call__(self, pair):
        noise = np.random.rand(3)  # noqa: NPY002
        point = torch.tensor([float(pair['image_id']), *noise], dtype=torch.float32)
        return {'inputs': point, 'index': pair['image_id']}


def train(written, work_dir, max_iters, **options):
    cfg = toy.config(work_dir, max_iters=max_iters, interval=5, **options)
    loader = cfg.train_dataloader
    loader.sampler = None
    loader.dataset = {'type': 'FiberShardDataset', 'shards': str(written), 'buffer': 8,
                      'pipeline': [{'type': 'ToyPoint'}]}  # fmt: skip
    cfg.experiment_name = f'{work_dir}_{cfg.resume}'.replace('/', '_')
    runner = FiberRunner.from_cfg(cfg)
    runner.train()


@pytest.mark.filterwarnings('error:Length of IterableDataset')
@pytest.mark.parametrize('index', ['none', 'foreign', 'ours'])
def test_training_with_and_without_an_index(copied, tmp_path, index):
    if index != 'ours':
        write_index_of(index, copied)
    # more than an epoch, with the schedules, logs and checkpoints of a real run
    assert len(PAIRS) < 20 * 3
    train(copied, tmp_path, 20)
    assert toy.last_state(tmp_path)['meta']['iter'] == 20


def fail_at_the(call, function):
    calls = []

    def counted(*args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return function(*args, **kwargs)

    return counted


@pytest.mark.filterwarnings('ignore:This DataLoader will create')
@pytest.mark.parametrize('workers', [0, 2])
def test_a_resumed_run_ends_as_one_that_was_not(written, tmp_path, monkeypatch, workers):
    train(written, tmp_path / 'whole', 20, num_workers=workers)
    monkeypatch.setattr(toy.ToyModel, 'forward', fail_at_the(8, toy.ToyModel.forward))
    with pytest.raises(KeyboardInterrupt):
        train(written, tmp_path / 'cut', 20, num_workers=workers)
    monkeypatch.undo()
    assert toy.last_state(tmp_path / 'cut')['meta']['iter'] == 5
    train(written, tmp_path / 'cut', 20, num_workers=workers, resume=True)
    toy.assert_same_training(toy.last_state(tmp_path / 'cut'), toy.last_state(tmp_path / 'whole'))


def test_epochs_of_a_stream_do_not_end(written, tmp_path):
    with pytest.raises(ValueError, match='needs a sampler that ends.*got FiberShardDataset'):
        train(written, tmp_path, 4, by_epoch=True)


# --- faulty data ---


def copy_with(tmp_path, number, change):
    """One shard of ten samples, of which one is changed."""
    members = []
    for i in range(10):
        files = {'png': jpeg(i), 'txt': f'caption {i} 0'.encode()}
        if i == number:
            change(files)
        members += [(f'{i:04d}.{suffix}', content) for suffix, content in files.items()]
    return tar(tmp_path / 'train-0.tar', members)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda f: f.pop('txt'), r"train-0\.tar: 0004 has no caption, only \['png'\]"),
        (lambda f: f.pop('png'), r"train-0\.tar: 0004 has no image, only \['txt'\]"),
        (lambda f: f.update(txt=b'  '), 'caption 0 of 0004 is empty'),
        (lambda f: f.update(json=b'{'), '0004.json is no JSON'),
        (
            lambda f: f.update(json=b'["a"]'),
            r"train-0\.tar: 0004.json is no JSON object, but \['a'\]",
        ),
        (lambda f: f.update(txt=b'caf\xe9'), r'train-0\.tar: 0004\.txt is no UTF-8 text: .*0xe9'),
    ],
)
def test_samples_without_caption_or_image(tmp_path, change, message):
    copy_with(tmp_path, 4, change)
    with pytest.raises(ValueError, match=rf"{message}.*on_error='skip'"):
        texts(make(tmp_path), count=10)
    dataset = make(tmp_path, on_error='skip', shuffle=False)
    assert texts(dataset, count=9) == [f'caption {i} 0' for i in range(10) if i != 4]
    assert dataset.faulty.total == 1
    assert texts(dataset, start=3, count=12) == texts(dataset, count=15)[3:]


def test_unreadable_images(tmp_path):
    copy_with(tmp_path, 4, lambda files: files.update(png=files['png'][:30]))
    dataset = make(tmp_path, shuffle=False)
    with pytest.raises(ValueError, match=r'train-0\.tar \(0004\.png\)'):
        list(islice(dataset._samples(0, 1, 0), 10))

    dataset = make(tmp_path, shuffle=False, on_error='skip')

    def numbers(start, count):
        return [number_of(s) for s in islice(dataset._samples(0, 1, start), count)]

    assert numbers(0, 10) == [0, 1, 2, 3, 5, 5, 6, 7, 8, 9]
    assert dataset.unreadable.total == 1
    for start in range(1, 12):
        assert numbers(start, 10) == numbers(0, 25)[start : start + 10]


def test_nothing_readable(tmp_path):
    tar(tmp_path / 'train-0.tar', [('a.png', b'no'), ('a.txt', b'text')])
    with pytest.raises(ValueError, match='100 images in a row'):
        next(make(tmp_path, on_error='skip')._samples(0, 1, 0))


@pytest.mark.parametrize('where', ['within a file', 'between two files', 'within a header'])
@pytest.mark.parametrize('on_error', ['raise', 'skip'])
def test_a_shard_cut_in_half(tmp_path, where, on_error):
    path = copy_with(tmp_path, None, None)
    with tarfile.open(path) as file:
        member = file.getmember('0005.png')
    end = {
        'within a file': member.offset_data + 20,
        'between two files': member.offset,
        'within a header': member.offset + 100,
    }[where]
    with open(path, 'rb+') as file:
        file.truncate(end)
    with pytest.raises(ValueError, match=r'train-0\.tar \(\d+ bytes\) .*it is cut'):
        texts(make(tmp_path, on_error=on_error), count=10)


def test_a_stream_cut_in_half(tmp_path):
    """What cannot be looked at before: the tar reader's error, with the name."""
    path = copy_with(tmp_path, None, None)
    content = Path(path).read_bytes()
    (tmp_path / 'half').write_bytes(content[: len(content) // 2 - 200])
    dataset = FiberShardDataset(f'pipe:cat {tmp_path}/half', seed=0)
    with pytest.raises(ValueError, match=r'pipe:cat .*/half is cut, or no tar file'):
        texts(dataset, count=10)


def test_other_files(tmp_path):
    path = tmp_path / 'train-0.tar'
    path.write_bytes(b'\0' * 100)
    with pytest.raises(ValueError, match='does not end as a tar file'):
        check_end(str(path))
    path.write_bytes(b'text ' * 500 + bytes(1024))
    with pytest.raises(ValueError, match=r'train-0\.tar is cut, or no tar file'):
        list(read_shard(str(path)))


def test_doubled_keys(tmp_path):
    members = [('a.png', jpeg(1)), ('a.txt', b'x'), ('b.txt', b'y'), ('a.json', b'{}')]
    with pytest.raises(ValueError, match=r'train-0\.tar .*the key a is there twice'):
        list(read_shard(tar(tmp_path / 'train-0.tar', members)))
    with pytest.raises(ValueError, match=r'train-0\.tar .*duplicate file name'):
        list(read_shard(tar(tmp_path / 'train-0.tar', [members[0], members[0]])))


def test_a_shard_that_is_not_the_one_of_the_index(tmp_path):
    with ShardWriter(tmp_path, 'train', 10) as writer:
        for number in range(10):
            writer.add(NAMES[number], jpeg(number), captions_of(number), number, 'png')
    tar(tmp_path / 'train-000000.tar', [('a.png', jpeg(1)), ('a.txt', b'x')])
    with pytest.raises(ValueError, match=r'has 1 samples, its index\.json says 10'):
        texts(make(tmp_path))


def test_faulty_settings(written):
    with pytest.raises(ValueError, match='stream for training'):
        make(written, test_mode=True)
    with pytest.raises(ValueError, match='is for training'):
        make(written, test_mode=True, on_error='skip')
    with pytest.raises(ValueError, match='buffer'):
        make(written, buffer=0)
    with pytest.raises(ValueError, match='per_shard'):
        ShardWriter(written, per_shard=0)
    with pytest.raises(ValueError, match='no dots'):
        ShardWriter(written / 'x').add('a.b', b'', ['a'], 1)
    for captions in ([], ['a', ' ']):
        with pytest.raises(ValueError, match='ab: captions that are not empty are wanted'):
            ShardWriter(written / 'x').add('ab', b'', captions, 1)


def test_an_interrupted_writer_leaves_whole_shards_only(tmp_path):
    def write():
        with ShardWriter(tmp_path, 'train', 2) as writer:
            for number in range(5):
                writer.add(NAMES[number], jpeg(number) if number < 3 else None, ['a'], number)

    with pytest.raises(TypeError):
        write()
    assert [p.name for p in tmp_path.iterdir()] == ['train-000000.tar']
