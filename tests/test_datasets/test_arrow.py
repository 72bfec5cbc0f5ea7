"""Arrow tables in the released layout."""

import errno
import multiprocessing
import os
import pickle
import sys

import numpy as np
import pyarrow as pa
import pytest

from fiber_mm.datasets.arrow import FiberArrowDataset, arrow_tables
from fiber_mm.datasets.shards import FiberShardDataset
from fiber_mm.datasets.writers import ArrowWriter, ShardWriter
from fiber_mm.registry import DATASETS

from .caption_data import PIPELINE, jpeg, number_of

ROWS = {
    'coco_caption_karpathy_train': [(1, ['a dog', 'A dog', 'a dog']), (2, ['a cat'])],
    'coco_caption_karpathy_val': [(3, ['a bus', 'two buses'])],
    'coco_caption_karpathy_test': [(4, ['a car'])],
    'coco_caption_karpathy_restval': [(5, ['a tree'])],
}


def write(path, rows):
    with ArrowWriter(path) as writer:
        for number, captions in rows:
            writer.add(jpeg(number), captions, f'{number:012d}.jpg', 'train')


@pytest.fixture
def folder(tmp_path):
    for name, rows in ROWS.items():
        write(tmp_path / f'{name}.arrow', rows)
    return tmp_path


def make(folder, name='coco', **options):
    return FiberArrowDataset(name, data_root=str(folder), **options)


def texts(dataset):
    return [dataset.get_data_info(i)['text'] for i in range(len(dataset))]


def test_files_of_the_released_recipes():
    train = tuple(f'coco_caption_karpathy_{s}' for s in ('train', 'val'))
    assert arrow_tables('coco') == train
    assert arrow_tables('coco', restval=True) == (*train, 'coco_caption_karpathy_restval')
    assert arrow_tables('f30k', 'test') == ('f30k_caption_karpathy_test',)
    assert arrow_tables('f30k', ['val']) == ('f30k_caption_karpathy_val',)
    assert arrow_tables('vg') == ('vg',)
    gcc, sbu = arrow_tables('gcc'), arrow_tables('sbu')
    assert (gcc[0], gcc[-1]) == ('conceptual_caption_train_0', 'conceptual_caption_train_30')
    assert (sbu[0], sbu[-1]) == ('sbu_0', 'sbu_8')
    with pytest.raises(ValueError, match='vg has training data only'):
        arrow_tables('vg', 'test')
    with pytest.raises(ValueError, match="'gcc', 'sbu', got 'laion'"):
        arrow_tables('laion')


def test_pairs_of_several_tables(folder):
    dataset = make(folder)
    assert texts(dataset) == ['a dog', 'A dog', 'a cat', 'a bus', 'two buses']
    assert texts(make(folder, split='test')) == ['a car']
    assert texts(make(folder, restval=True))[-1] == 'a tree'
    info = dataset.get_data_info(4)
    assert info['image_id'] == '000000000003.jpg'
    assert info['text_id'] == 'coco_caption_karpathy_val/0/1'
    assert info['image_index'] == 2
    assert info['img_bytes'] == jpeg(3)


def test_images_with_all_their_captions(folder):
    dataset = make(folder, per='image')
    assert texts(dataset) == [['a dog', 'A dog'], ['a cat'], ['a bus', 'two buses']]
    assert dataset.get_data_info(0)['text_id'] == [
        'coco_caption_karpathy_train/0/0',
        'coco_caption_karpathy_train/0/1',
    ]


def test_samples(folder):
    dataset = make(folder, pipeline=PIPELINE)
    assert [number_of(dataset[i]) for i in range(5)] == [1, 1, 2, 3, 3]
    sample = dataset[3]['data_samples']
    assert sample.text == 'a bus'
    assert sample.img_path.endswith('val.arrow (row 0, image_id 000000000003.jpg)')


def _read(dataset, queue):
    queue.put([number_of(dataset[i]) for i in range(len(dataset))])


@pytest.mark.parametrize('method', ['fork', pytest.param('spawn', marks=pytest.mark.slow)])
def test_workers(folder, method):
    """Forked workers share the mapping, spawned ones make it anew."""
    dataset = make(folder, pipeline=PIPELINE)
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    worker = context.Process(target=_read, args=(dataset, queue))
    worker.start()
    assert queue.get(timeout=120) == [1, 1, 2, 3, 3]
    worker.join()


def test_only_integers_travel(folder):
    dataset = make(folder)
    state = pickle.dumps(dataset)
    assert jpeg(1) not in state
    assert b'a dog' not in state
    assert texts(pickle.loads(state)) == texts(dataset)


def test_subsets_count_images(folder):
    whole = make(folder)
    assert texts(make(folder, indices=2)) == ['a dog', 'A dog', 'a cat']
    assert texts(make(folder, indices=-1)) == ['a bus', 'two buses']
    assert texts(whole.get_subset([2, 0])) == ['a bus', 'two buses', 'a dog', 'A dog']
    assert len(whole) == 5


def test_many_rows_and_batches(tmp_path, monkeypatch):
    monkeypatch.setattr('fiber_mm.datasets.writers._BATCH_BYTES', 500)
    rng = np.random.default_rng(0)
    rows = [(i, [f'caption {i} {k}' for k in range(rng.integers(1, 5))]) for i in range(60)]
    write(tmp_path / 'vg.arrow', rows)
    assert pa.ipc.open_file(str(tmp_path / 'vg.arrow')).num_record_batches > 5
    dataset = make(tmp_path, 'vg')
    assert texts(dataset) == [text for _, captions in rows for text in captions]
    assert [dataset.get_data_info(i)['img_bytes'] for i in (0, len(dataset) - 1)] == [
        jpeg(0),
        jpeg(59),
    ]


def test_a_table_as_the_converter_of_vilt_writes_it(tmp_path):
    """From columns as pandas gives them: one batch, further columns."""
    table = pa.table({
        'image': [jpeg(1), jpeg(2)], 'caption': [['a clock', 'trees'], ['a wall']],
        'width': [[1, 2], [3]], 'height': [[1, 2], [3]], 'x': [[1, 2], [3]], 'y': [[1, 2], [3]],
        'image_id': ['1', '2'],
    })  # fmt: skip
    path = str(tmp_path / 'vg.arrow')
    with pa.OSFile(path, 'wb') as sink, pa.RecordBatchFileWriter(sink, table.schema) as writer:
        writer.write_table(table)
    dataset = make(tmp_path, 'vg', pipeline=PIPELINE)
    assert texts(dataset) == ['a clock', 'trees', 'a wall']
    assert number_of(dataset[2]) == 2


def test_missing_files(folder):
    with pytest.raises(FileNotFoundError, match=r'2 of 2 arrow files .*f30k.*_train.*tables='):
        make(folder, 'f30k')
    assert texts(make(folder, None, tables=['coco_caption_karpathy_test'])) == ['a car']
    with pytest.raises(ValueError, match='either name or tables'):
        FiberArrowDataset(data_root=str(folder))


@pytest.mark.parametrize('name', ['pyarrow', 'webdataset'])
def test_optional_packages_are_named(folder, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    read = make if name == 'pyarrow' else FiberShardDataset
    with pytest.raises(ModuleNotFoundError, match=f'pip install {name}'):
        read(str(folder))


def test_a_file_cut_in_half(folder):
    path = folder / 'coco_caption_karpathy_val.arrow'
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r'karpathy_val\.arrow is no complete arrow IPC file'):
        make(folder)


def save(path, **columns):
    table = pa.table(columns)
    with pa.OSFile(str(path), 'wb') as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def test_missing_columns(tmp_path):
    save(tmp_path / 'vg.arrow', image=[jpeg(1)], caption=[['a']])
    with pytest.raises(ValueError, match=r"vg\.arrow has no column \['image_id'\], only"):
        make(tmp_path, 'vg')
    save(tmp_path / 'vg.arrow', image=[jpeg(1)], caption=['a'], image_id=['1'])
    with pytest.raises(ValueError, match='has the type string, a list of texts'):
        make(tmp_path, 'vg')


@pytest.mark.parametrize(
    ('columns', 'message'),
    [
        (dict(image=[1], caption=[['a']]), 'column image has the type int64, the bytes of an'),
        (dict(image=['a.jpg'], caption=[['a']]), 'column image has the type string'),
        (dict(image=[b'a'], caption=[[1]]), r'column caption has the type list<.*int64>'),
        (dict(image=[b'a'], caption=[[]]), 'image without caption'),
    ],
)
def test_columns_of_other_types(tmp_path, columns, message):
    save(tmp_path / 'vg.arrow', image_id=['1'], **columns)
    with pytest.raises(ValueError, match=message):
        make(tmp_path, 'vg')


@pytest.mark.parametrize(
    ('change', 'message', 'left'),
    [
        ({'image_id': ['1', '2', '2']}, 'row 2, image_id 2: doubled image id', 'ab'),
        ({'image': [jpeg(1), None, jpeg(3)]}, 'row 1, image_id 2: captions without image', 'ac'),
        ({'image': [jpeg(1), b'', jpeg(3)]}, 'row 1, image_id 2: captions without image', 'ac'),
        ({'caption': [['a'], [' '], ['c']]}, 'caption 0 of row 1: empty caption', 'ac'),
        ({'caption': [['a'], [], ['c']]}, 'row 1, image_id 2: image without caption', 'ac'),
        ({'caption': [['a'], None, ['c']]}, 'row 1, image_id 2: image without caption', 'ac'),
        ({'caption': [['a'], [None, 'b'], ['c']]}, 'caption 0 of row 1: empty caption', 'abc'),
    ],
)
def test_faulty_rows(tmp_path, change, message, left):
    columns = {
        'image': [jpeg(i) for i in (1, 2, 3)],
        'caption': [['a'], ['b'], ['c']],
        'image_id': ['1', '2', '3'],
    }
    save(tmp_path / 'vg.arrow', **{**columns, **change})
    with pytest.raises(ValueError, match=rf"vg\.arrow: {message}.*on_error='skip'"):
        make(tmp_path, 'vg')
    assert texts(make(tmp_path, 'vg', on_error='skip')) == list(left)


def test_ids_are_those_of_all_tables(folder):
    write(folder / 'a.arrow', [(1, ['a']), (2, ['b'])])
    write(folder / 'b.arrow', [(3, ['c']), (2, ['d']), (4, ['e'])])
    tables = ['b', 'a']
    message = r'a\.arrow: row 1, image_id 0+2\.jpg, as in row 1 of .*b\.arrow .*ConcatDataset'
    with pytest.raises(ValueError, match=message):
        make(folder, None, tables=tables)
    assert texts(make(folder, None, tables=tables, on_error='skip')) == ['c', 'd', 'e', 'a']
    one = {'type': 'FiberArrowDataset', 'data_root': str(folder)}
    both = {'type': 'ConcatDataset', 'datasets': [{**one, 'tables': [t]} for t in tables]}
    assert len(DATASETS.build(both)) == 5


def test_ids_of_different_types(tmp_path):
    for name, ids in (('a', [1, 2]), ('b', ['3', '1'])):
        save(tmp_path / f'{name}.arrow', image=[jpeg(1)] * 2, caption=[['x'], ['y']], image_id=ids)
    with pytest.raises(ValueError, match=r'b\.arrow: row 1, image_id 1, as in row 0 of .*a\.arrow'):
        make(tmp_path, None, tables=['a', 'b'])


def test_tables_given_twice(folder):
    for tables in (['a', 'b', 'a'], ['a', './a']):
        with pytest.raises(ValueError, match=r"tables are given twice: \['.*a\.arrow'\]"):
            make(folder, None, tables=tables, lazy_init=True)
    with pytest.raises(ValueError, match=r'no table is given: .*tables=\[\]'):
        make(folder, None, tables=[])


def test_one_table(folder):
    """As --cfg-options gives it."""
    name = 'coco_caption_karpathy_val'
    assert texts(make(folder, None, tables=name)) == texts(make(folder, None, tables=[name]))


def test_unreadable_images(tmp_path):
    save(tmp_path / 'vg.arrow', image=[jpeg(1), jpeg(2)[:40]], caption=[['a'], ['b']],
         image_id=['1', '2'])  # fmt: skip
    dataset = make(tmp_path, 'vg', pipeline=PIPELINE)
    with pytest.raises(ValueError, match=r'vg\.arrow: image 2 \(sample 1\): .*row 1, image_id 2'):
        dataset[1]
    dataset = make(tmp_path, 'vg', pipeline=PIPELINE, on_error='skip')
    assert number_of(dataset[1]) == 1
    assert dataset.unreadable.total == 1
    with pytest.raises(ValueError, match='is for training'):
        make(tmp_path, 'vg', on_error='skip', test_mode=True)


def test_an_interrupted_writer_leaves_nothing(tmp_path):
    with pytest.raises(TypeError), ArrowWriter(tmp_path / 'a.arrow') as writer:
        writer.add(None, ['a'], '1')
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ('file', 'left'),
    [('a.arrow', []), ('train-000000.tar', []), ('index.json', ['train-000000.tar'])],
)
def test_a_writer_that_cannot_finish_leaves_whole_files_only(tmp_path, monkeypatch, file, left):
    replace = os.replace

    def full(source, target):
        if os.path.basename(target) == file:
            raise OSError(errno.ENOSPC, 'No space left on device')
        replace(source, target)

    monkeypatch.setattr('fiber_mm.datasets.writers.os.replace', full)
    if file == 'a.arrow':
        with pytest.raises(OSError, match='No space left'), ArrowWriter(tmp_path / file) as writer:
            writer.add(jpeg(1), ['a'], '1')
    else:
        with (
            pytest.raises(OSError, match='No space left'),
            ShardWriter(tmp_path, 'train') as writer,
        ):
            writer.add('0', jpeg(1), ['a'], '1')
    assert [path.name for path in tmp_path.iterdir()] == left


def test_texts_that_are_no_utf_8_are_named_at_once(tmp_path):
    with ArrowWriter(tmp_path / 'a.arrow') as writer:
        writer.add(jpeg(1), ['a'], '1')
        with pytest.raises(ValueError, match=r"image '2': .*UTF-8 are wanted, got \['b\\ud83d'\]"):
            writer.add(jpeg(2), ['b\ud83d'], '2')
    with (
        pytest.raises(ValueError, match=r"key: .*UTF-8 are wanted, got \['b\\ud83d'\]"),
        ShardWriter(tmp_path) as writer,
    ):
        writer.add('key', jpeg(2), ['b\ud83d'], '2')
    assert len(FiberArrowDataset(tables='a', data_root=str(tmp_path))) == 1
