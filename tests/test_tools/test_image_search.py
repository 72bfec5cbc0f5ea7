"""tools/index_images.py and tools/search_images.py, in this process."""

import io
import json
import sys
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from shapes_fixture import shapes_root  # noqa: F401
from tool_loader import load_tool

from fiber_mm import get_config
from fiber_mm.registry import MODELS

pytest.importorskip('faiss', reason='needs faiss-cpu, an optional requirement')

CONFIG = 'pretrain/fiber_nano_1xb32_1k_shapes'


def tool(name, *args):
    return load_tool(name).main([str(arg) for arg in args])


@pytest.fixture(scope='module')
def given(shapes_root, tmp_path_factory):  # noqa: F811
    """Options that say which model: the nano one with fresh weights."""
    from transformers import AutoTokenizer

    tokenizer = f'{shapes_root}/tokenizer'
    size = len(AutoTokenizer.from_pretrained(tokenizer))
    cfg = get_config(CONFIG)
    cfg.model.data_preprocessor.tokenizer = tokenizer
    cfg.model.roberta.vocab_size = size
    torch.manual_seed(0)
    weights = tmp_path_factory.mktemp('model') / 'nano.pth'
    torch.save({'state_dict': MODELS.build(cfg.model).state_dict()}, weights)
    options = (f'model.data_preprocessor.tokenizer={tokenizer}', f'model.roberta.vocab_size={size}')
    return ('--config', CONFIG, '--checkpoint', weights, '--device', 'cpu', '--cfg-options',
            *options)  # fmt: skip


@pytest.fixture
def index(tmp_path, shapes_root, given):  # noqa: F811
    place = tmp_path / 'index'
    tool('index_images', shapes_root / 'val', '--index', place, '--workers', 0, *given)
    return place


def test_index_and_search(tmp_path, shapes_root, index, capsys, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    # The index knows its model.
    tool('index_images', shapes_root / 'val', '--index', index, '--device', 'cpu', '--workers', 0)
    assert '8 images in the index: 0 added' in capsys.readouterr().out
    search = ('--index', index, '--device', 'cpu')
    hits = tool('search_images', 'a red circle', *search, '-k', 5, '--rerank', 4)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == ['similarity', 'match', 'image']
    for number, (line, hit) in enumerate(zip(printed[1:6], hits), 1):
        assert line.split()[:2] == [str(number), f'{hit.similarity:.3f}']
        assert line.endswith(hit.path)
    assert printed[6] == 'picture: work_dirs/search.png'
    sheet = np.asarray(Image.open(tmp_path / 'work_dirs' / 'search.png'))
    assert sheet.shape[1] == 5 * 248 + 8
    hits[1].file.rename(tmp_path / 'away')
    try:
        found = tool(
            'search_images', 'a red circle', *search, '--json', '--sheet', tmp_path / 's.png'
        )
    finally:
        (tmp_path / 'away').rename(hits[1].file)
    answer = json.loads(capsys.readouterr().out)
    assert answer['text'] == 'a red circle'
    assert answer['rerank'] == 50, 'the model can match'
    assert all(row['match'] is not None for row in answer['hits'] if not row['problem'])
    assert [row['path'] for row in answer['hits']] == [hit.path for hit in found]
    problems = {row['path']: row['problem'] for row in answer['hits']}
    assert problems.pop(hits[1].path) == 'missing'
    assert set(problems.values()) == {None}
    assert (tmp_path / 's.png').is_file()
    (tmp_path / 'taken').touch()
    with pytest.raises(SystemExit, match='error: the picture .*s.png cannot be written'):
        tool('search_images', 'a red circle', *search, '--sheet', tmp_path / 'taken' / 's.png')
    assert hits[0].path in capsys.readouterr().out, 'what was found is printed even so'
    with pytest.raises(SystemExit):
        tool('search_images', 'a red circle', *search, '--sheet', 'picture')
    assert "'' is no kind of picture" in capsys.readouterr().err
    hits = tool('search_images', '--image', hits[0].file, *search, '--sheet', '', '-k', 1)
    assert hits[0].similarity == pytest.approx(1, abs=1e-5)
    assert 'picture' not in capsys.readouterr().out


@pytest.mark.parametrize('option', ['--size', '--batch-size'])
def test_numbers_below_one(tmp_path, option, capsys):
    with pytest.raises(SystemExit):
        tool('index_images', tmp_path, option, 0)
    assert f'{option} must be at least 1, got 0' in capsys.readouterr().err


def test_skipped_images_are_listed(tmp_path, index, shapes_root, given, capsys):  # noqa: F811
    photos = tmp_path / 'photos'
    photos.mkdir()
    Image.new('RGB', (20, 20)).save(photos / 'good.png')
    (photos / 'bad.png').write_bytes(b'no image')
    arguments = (photos, '--index', tmp_path / 'new', '--workers', 0, *given)
    with pytest.raises(SystemExit, match=r'error: the file .*bad\.png .*--on-error skip'):
        tool('index_images', *arguments)
    tool('index_images', *arguments[:3], '--on-error', 'skip', *arguments[3:])
    printed = capsys.readouterr()
    assert '1 added, 0 changed, 0 removed, 1 skipped as unreadable' in printed.out
    assert printed.err.count('skipped: the file') == 1


def test_an_index_is_replaced_by_its_own_model(tmp_path, shapes_root, given):  # noqa: F811
    """Neither config, checkpoint, size nor precision are given again; nor later."""
    place, val = tmp_path / 'new', shapes_root / 'val'
    common = ('--index', place, '--workers', 0)
    tool('index_images', val, *common, '--size', 48, '--precision', 'bf16', *given)
    before = json.loads((place / 'index.json').read_text())
    common += ('--device', 'cpu')
    tool('index_images', val, *common, '--overwrite', '--factory', 'IVF2,Flat')
    after = json.loads((place / 'index.json').read_text())
    assert (before.pop('factory'), after.pop('factory')) == ('Flat', 'IVF2,Flat')
    assert after == before
    assert after['settings']['size'] == 48
    tool('index_images', val, *common)
    # Where there is nothing to read, the model has to be given.
    (place / 'index.json').write_text('{}')
    with pytest.raises(SystemExit, match=r'which model\? .*give --config'):
        tool('index_images', val, *common, '--overwrite')


def test_names_that_are_no_utf_8(tmp_path, shapes_root, given, capsys):  # noqa: F811
    photos = tmp_path / 'photos'
    photos.mkdir()
    try:
        Image.new('RGB', (20, 20)).save(photos / 'caf\udce9.png')
    except OSError:
        pytest.skip('this file system has names in UTF-8 only')
    Image.new('RGB', (20, 20)).save(photos / 'café.png')
    place = tmp_path / 'new'
    tool('index_images', photos, '--index', place, '--workers', 0, *given)
    search = ('search_images', 'a dog', '--index', place, '--device', 'cpu')
    hits = tool(*search, '--sheet', tmp_path / 's.png')
    printed = capsys.readouterr().out
    assert {hit.path for hit in hits} == {'caf\udce9.png', 'café.png'}
    assert 'caf?.png' in printed
    assert 'café.png' in printed
    with mock.patch.object(sys, 'stdout', io.TextIOWrapper(io.BytesIO(), 'ascii')):
        tool(*search, '--sheet', '')
        sys.stdout.seek(0)
        assert sys.stdout.read().count('caf?.png') == 2


def test_files_of_other_kinds_are_counted(tmp_path, shapes_root, given, capsys):  # noqa: F811
    photos = tmp_path / 'photos'
    photos.mkdir()
    Image.new('RGB', (20, 20)).save(photos / 'a.png')
    (photos / 'b.heic').touch()
    tool('index_images', photos, '--index', tmp_path / 'new', '--workers', 0, *given)
    assert '1 files of other kinds were not looked at: .heic 1' in capsys.readouterr().out


def test_errors_are_one_line(tmp_path, index, shapes_root, given, capsys):  # noqa: F811
    def error(*args):
        with pytest.raises(SystemExit) as stop:
            tool(*args, '--device', 'cpu')
        return str(stop.value.code)

    val, new = shapes_root / 'val', tmp_path / 'new'
    assert 'There is none in' in error('index_images', val, '--index', new)
    assert 'error: there is no index' in error('search_images', 'a', '--index', new)
    assert 'at least one word' in error('search_images', ' ', '--index', index)
    wrong = ('--cfg-options', 'model.data_preprocessor.mean=[1.0, 2.0, 3.0]')
    assert 'built by another model (mean' in error('search_images', 'a', '--index', index, *wrong)
    assert 'nowhere.pth' in error(
        'index_images', val, '--index', new, '--config', CONFIG, '--checkpoint', 'nowhere.pth'
    )
    for args in ((), ('a', '--image', 'b.png'), ('--image', 'b.png', '--rerank', '3')):
        assert error('search_images', *args) == '2'
    assert 'give a text or --image' in capsys.readouterr().err
