"""Folders: same bytes whatever the way, never half written, never overwritten by accident."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from tool_loader import load_tool

from fiber_mm.shapes import contact_sheet, ensure_shapes, generate, generate_shapes, read_meta
from fiber_mm.shapes import vocabulary as V

from .conftest import SEED, SPLITS


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob('*') if p.is_file()}


def test_two_runs_give_the_same_bytes_with_any_number_of_workers(folder, tmp_path):
    out = tmp_path / 'again'
    reverse = dict(reversed(SPLITS.items()))
    generate_shapes(out, reverse, SEED, workers=2, progress=False)
    first, second = files_of(folder), files_of(out)
    assert first.keys() == second.keys()
    # meta.json lists the splits in the order given
    assert [k for k in first if first[k] != second[k] and k != 'meta.json'] == []
    assert read_meta(folder) == read_meta(out)


def test_workers_start_after_threaded_opencv(tmp_path):
    """OpenCV's threads do not survive a fork; workers must not wait for them."""
    threads = cv2.getNumThreads()
    cv2.resize(np.zeros((2000, 2000, 3), np.uint8), (3000, 3000), interpolation=cv2.INTER_CUBIC)
    generate_shapes(tmp_path / 'data', {'val': 30}, 0, workers=2, progress=False)
    assert len(list((tmp_path / 'data' / 'val').iterdir())) == 30
    assert cv2.getNumThreads() == threads


def test_images_do_not_depend_on_their_number(folder, tmp_path):
    out = tmp_path / 'more'
    generate_shapes(out, {'val': 30}, SEED, workers=1, progress=False)
    few = (folder / 'scenes_val.jsonl').read_text().splitlines()
    more = (out / 'scenes_val.jsonl').read_text().splitlines()
    assert more[: len(few)] == few
    assert len(more) == 30
    for path in (folder / 'val').iterdir():
        assert path.read_bytes() == (out / 'val' / path.name).read_bytes()
    assert len({(out / 'val' / p.name).read_bytes() for p in (out / 'val').iterdir()}) == 30


def test_meta_names_the_classes(folder):
    meta = read_meta(folder)
    assert meta['splits'] == SPLITS
    assert meta['seed'] == SEED
    assert meta['seen'] == list(V.SEEN)
    assert meta['held_out'] == list(V.HELD_OUT)


def test_complete_folder_is_left_as_it_is(folder):
    before = (folder / 'meta.json').stat().st_mtime_ns
    assert ensure_shapes(folder, SPLITS, SEED) == folder
    assert generate_shapes(folder, SPLITS, SEED) is False
    assert (folder / 'meta.json').stat().st_mtime_ns == before


def test_other_settings_are_an_error_unless_overwritten(tmp_path):
    out = tmp_path / 'data'
    generate_shapes(out, {'val': 2}, 0, workers=1, progress=False)
    with pytest.raises(FileExistsError, match='seed 0 there, 1 wanted.*--overwrite'):
        generate_shapes(out, {'val': 2}, 1, workers=1, progress=False)
    assert read_meta(out)['seed'] == 0
    assert generate_shapes(out, {'val': 2}, 1, workers=1, progress=False, overwrite=True)
    assert read_meta(out)['seed'] == 1


def test_foreign_folder_is_never_touched(tmp_path):
    (tmp_path / 'precious.txt').write_text('mine')
    with pytest.raises(FileExistsError, match='no Shapes folder'):
        generate_shapes(tmp_path, {'val': 2}, 0, overwrite=True)
    assert (tmp_path / 'precious.txt').read_text() == 'mine'


def test_interruption_leaves_no_folder(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(generate, 'write_tokenizer', full)
    out = tmp_path / 'data'
    with pytest.raises(OSError, match='No space left'):
        generate_shapes(out, {'val': 2}, 0, workers=1, progress=False)
    assert not out.exists()
    assert [p.name for p in tmp_path.iterdir()] == ['.data.lock']  # nothing else
    monkeypatch.undo()
    assert generate_shapes(out, {'val': 2}, 0, workers=1, progress=False)


def test_failed_overwrite_keeps_the_old_folder(tmp_path, monkeypatch):
    out = tmp_path / 'data'
    generate_shapes(out, {'val': 2}, 0, workers=1, progress=False)
    before = files_of(out)

    def broken(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(generate, '_write_meta', broken)
    with pytest.raises(KeyboardInterrupt):
        generate_shapes(out, {'val': 3}, 0, workers=1, progress=False, overwrite=True)
    assert files_of(out) == before


def test_leftovers_of_a_killed_run_are_replaced(tmp_path):
    partial = tmp_path / '.data.partial'
    (partial / 'val').mkdir(parents=True)
    (partial / 'val' / 'old.jpg').write_text('')
    generate_shapes(tmp_path / 'data', {'val': 2}, 0, workers=1, progress=False)
    assert len(list((tmp_path / 'data' / 'val').iterdir())) == 2
    assert not partial.exists()


@pytest.mark.parametrize(
    ('splits', 'seed', 'size', 'message'),
    [
        ({}, 0, 256, 'no splits'),
        ({'val': 0}, 0, 256, '0 images'),
        ({'../val': 3}, 0, 256, 'letters'),
        ({'annotations': 3}, 0, 256, 'taken'),
        ({'val': 3}, -1, 256, 'seed -1'),
        ({'val': 3}, 0, 20, 'image_size 20'),
    ],
)
def test_bad_arguments(tmp_path, splits, seed, size, message):
    with pytest.raises(ValueError, match=message):
        generate_shapes(tmp_path / 'data', splits, seed, size)
    assert not (tmp_path / 'data').exists()


def test_contact_sheet(tmp_path):
    out = tmp_path / 'data'
    generate_shapes(out, {'train': 2, 'val': 3}, 0, workers=1, progress=False)
    sheet = cv2.imread(str(contact_sheet(out, columns=2, rows=2)))
    assert sheet.shape[1] == 2 * 384
    assert len({tuple(c) for c in sheet[::16, ::16].reshape(-1, 3).tolist()}) > 100


def test_command(tmp_path, capsys):
    main, out = load_tool('make_shapes').main, str(tmp_path / 'data')
    assert main([out, '--split', 'train=3,val=2', '--preview', '--workers', '1']) == 0
    printed = capsys.readouterr().out
    assert '5 images' in printed
    assert 'images/s' in printed
    assert (tmp_path / 'data' / 'preview.png').is_file()
    assert main([out, '--split', 'train=3,val=2']) == 0
    assert 'complete already' in capsys.readouterr().out
    assert main([out, '--images', '4']) == 1
    assert 'other settings' in capsys.readouterr().err
    assert read_meta(tmp_path / 'data')['splits'] == {'train': 3, 'val': 2}
    assert main([out, '--images', '4', '--workers', '1', '--overwrite']) == 0
    assert read_meta(tmp_path / 'data')['splits'] == {'train': 4, 'val': 1}


@pytest.mark.parametrize('given', [['train=3,val'], ['train=3', 'val']])
def test_a_split_without_a_number_has_as_many_images_as_said(given):
    args = load_tool('make_shapes').parse_args(['out', '--images', '6', '--split', *given])
    assert args.split == {'train': 3, 'val': 6}


@pytest.mark.parametrize('text', ['train=', 'train=-3', 'train=2,train=3', 'train,train=3'])
def test_mistyped_splits_are_refused(text, capsys):
    with pytest.raises(SystemExit):
        load_tool('make_shapes').parse_args(['out', '--split', text])
    assert 'train' in capsys.readouterr().err
