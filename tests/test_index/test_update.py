import errno
import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_engine import toy_training as toy

from fiber_mm.datasets.transforms.image import UnreadableImageError
from fiber_mm.engine import checkpoint
from fiber_mm.engine.checkpoint import CheckpointError
from fiber_mm.index import ImageIndex, ImageIndexError
from fiber_mm.index.embed import Embedder
from fiber_mm.index.scan import FileState
from fiber_mm.index.store import IndexFolder
from fiber_mm.index.update import ImageFiles

from .toy import build, build_slowly, content, draw_images, touch

pytest.importorskip('faiss', reason='needs faiss-cpu, an optional requirement')


@pytest.fixture
def folder(tmp_path):
    return tmp_path / 'index'


@pytest.fixture
def one_thread():
    """As many as the process has that is killed: sums are split by threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def counts(index):
    report = index.report
    return report.added, report.changed, report.removed, report.resumed, len(report.skipped)


def features(folder):
    """Path to features, of what is on the disk."""
    place = IndexFolder(folder)
    meta = place.meta()
    images, index = place.images(meta), place.vectors(meta)
    return {path: index.reconstruct(number) for path, (_, number) in images.items()}, index.ntotal


def test_a_grown_index_is_that_of_a_whole_run(folder, photos, model, tmp_path):
    index = build(folder, photos, model)
    assert counts(index) == (12, 0, 0, 0, 0)
    assert counts(build(folder, photos, model)) == (0, 0, 0, 0, 0)
    draw_images(photos, [20, 21])  # new
    (photos / 'sub' / '00.png').unlink()  # gone
    (photos / '01.bmp').write_bytes((photos / '05.bmp').read_bytes())  # another image
    touch(photos / '01.bmp')
    index = build(folder, photos, model)
    assert counts(index) == (2, 1, 1, 0, 0)
    assert len(index) == index.report.total == 13

    build(tmp_path / 'whole', photos, model)
    assert content(folder)['images'] == content(tmp_path / 'whole')['images']
    (grown, number), (whole, _) = features(folder), features(tmp_path / 'whole')
    assert number == 13
    assert grown.keys() == whole.keys()
    for path, feature in whole.items():
        # Other batches, so perhaps another order of summation.
        np.testing.assert_allclose(grown[path], feature, atol=2e-6)
    np.testing.assert_allclose(grown['01.bmp'], grown['05.bmp'], atol=2e-6)
    # One generation alone is kept.
    assert sorted(p.name for p in folder.iterdir()) == [
        'config.json', 'features-000002.faiss', 'images-000002.jsonl', 'index.json', 'lock',
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.usefixtures('one_thread')
def test_killed_runs_end_with_the_index_of_a_whole_one(
    folder, photos, model, tmp_path, tokenizer_dir
):
    draw_images(photos, range(12, 22))
    build(tmp_path / 'whole', photos, model)
    arguments = (str(folder), str(photos), tokenizer_dir, 0.5)
    for pieces in (1, 3):
        process = toy.in_a_process(build_slowly, *arguments)
        toy.kill_when(process, lambda n=pieces: len(list(folder.glob('pieces/0*.npz'))) >= n)
        with pytest.raises(ImageIndexError, match='is not finished'):
            ImageIndex(folder, model)
    index = build(folder, photos, model)
    assert index.report.added == 22
    assert 12 <= index.report.resumed < 22
    assert content(folder) == content(tmp_path / 'whole')
    assert not (folder / 'pieces').exists()


@pytest.mark.parametrize('file', ['images-000002', 'features-000002', 'index.json'])
def test_a_kill_between_two_files_leaves_the_old_index(folder, photos, model, monkeypatch, file):
    build(folder, photos, model)
    before = content(folder)
    draw_images(photos, [20])

    def killed(src, dst):
        if file in os.fspath(dst):
            raise KeyboardInterrupt
        os.rename(src, dst)

    monkeypatch.setattr(checkpoint.os, 'replace', killed)
    # index.json is written at the start, too, unchanged.
    calls = iter([file != 'index.json'])
    write = IndexFolder.write_meta
    monkeypatch.setattr(
        IndexFolder, 'write_meta', lambda *a: write(*a) if next(calls, True) else None
    )
    with pytest.raises(KeyboardInterrupt):
        build(folder, photos, model)
    assert len(ImageIndex(folder, model)) == 12
    kept = IndexFolder(folder)
    assert kept.meta()['generation'] == 1
    assert (folder / 'features-000001.faiss').read_bytes() == before['features']
    monkeypatch.undo()
    index = build(folder, photos, model)
    assert counts(index) == (1, 0, 0, 1, 0)  # nothing had to be embedded again
    assert len(list(folder.glob('*-0*'))) == 2


@pytest.mark.parametrize('what', ['pieces', 'features-', 'images-'])
def test_a_full_disk_keeps_the_old_index(folder, photos, model, monkeypatch, what):
    build(folder, photos, model)
    wanted = ImageIndex(folder, model).search('a dog')
    draw_images(photos, [20])
    plain = open

    def full(path, mode='r', *args, **kwargs):
        if 'w' in mode and what in str(path):
            raise OSError(errno.ENOSPC, 'No space left on device')
        return plain(path, mode, *args, **kwargs)

    monkeypatch.setattr(checkpoint, 'open', full, raising=False)
    with pytest.raises(CheckpointError, match=rf'cannot write .*{what}.*No space left.*make room'):
        build(folder, photos, model)
    assert ImageIndex(folder, model).search('a dog') == wanted
    monkeypatch.undo()
    index = build(folder, photos, model)
    assert len(index) == 13
    assert index.report.resumed == (what != 'pieces')


def test_an_interrupted_removal(folder, photos, model, monkeypatch):
    """After a kill at any file, the rest is still known as an index that can be replaced."""
    unlink, left = Path.unlink, 0

    def unlink_some(path, **kwargs):
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        unlink(path, **kwargs)

    for number in range(5):  # a piece, images, features, config.json, index.json
        build(folder, photos, model)
        IndexFolder(folder).add_piece({}, [], {'a.png': (FileState(1, 1), 'no image')})
        left = number
        with monkeypatch.context() as patch:
            patch.setattr(Path, 'unlink', unlink_some)
            with pytest.raises(KeyboardInterrupt):
                build(folder, photos, model, overwrite=True)
        assert len(list(folder.rglob('*.*'))) == 5 - number
        assert counts(build(folder, photos, model, overwrite=True)) == (12, 0, 0, 0, 0)


def test_unreadable_images(folder, photos, model):
    (photos / '04.png').write_bytes((photos / '04.png').read_bytes()[:60])
    (photos / '07.bmp').write_bytes(b'')
    with pytest.raises(UnreadableImageError, match=r'04\.png .*Repair or remove it.*--on-error'):
        build(folder, photos, model)
    index = build(folder, photos, model, on_error='skip')
    assert counts(index) == (10, 0, 0, 0, 2)
    assert '07.bmp is empty' in index.report.skipped['07.bmp']
    lines = [json.loads(line) for line in (folder / 'skipped.jsonl').read_text().splitlines()]
    assert {line['path']: line['why'] for line in lines} == index.report.skipped
    assert counts(build(folder, photos, model, on_error='skip')) == (0, 0, 0, 0, 2)
    with pytest.raises(UnreadableImageError, match=r'04\.png'):
        build(folder, photos, model)
    # One that was good leaves the index when it is not any more.
    (photos / '10.png').write_bytes(b'no image')
    index = build(folder, photos, model, on_error='skip')
    assert counts(index) == (0, 0, 0, 0, 3)
    assert len(index) == 9
    draw_images(photos, [4, 7, 10])
    assert counts(build(folder, photos, model)) == (3, 0, 0, 0, 0)
    assert not (folder / 'skipped.jsonl').exists()


def test_what_is_passed_over_is_reported(folder, photos, model, monkeypatch):
    (photos / 'a.HEIC').write_bytes(b'x')
    (photos / 'sub' / 'closed').mkdir()
    scandir = os.scandir

    def denied(path='.'):
        if os.path.basename(path) == 'closed':
            raise PermissionError(errno.EACCES, 'Permission denied', path)
        return scandir(path)

    monkeypatch.setattr(os, 'scandir', denied)
    with pytest.raises(ImageIndexError, match=r'sub/closed cannot be read .*--on-error skip'):
        build(folder, photos, model)
    index = build(folder, photos, model, on_error='skip')
    assert counts(index) == (12, 0, 0, 0, 0)
    assert index.report.notes == [
        '1 files of other kinds were not looked at: .heic 1',
        f'folders that cannot be read were left out: {photos / "sub/closed"} (Permission denied)',
    ]


def test_only_files_of_other_kinds(folder, tmp_path, model):
    (tmp_path / 'phone').mkdir()
    for number in range(3):
        (tmp_path / 'phone' / f'{number}.heic').write_bytes(b'x')
    message = (
        r'holds no images; 3 files .* not looked at: \.heic 3: .* Images end in \.jpg, .*copies'
    )
    with pytest.raises(ImageIndexError, match=message):
        build(folder, tmp_path / 'phone', model)


def test_malformed_exif_does_not_end_a_run(folder, photos, model):
    """An entry that Pillow cannot write again, behind an orientation that it can read."""
    rows = ((0x0112, 3, 1, b'\6\0\0\0'), (0x011A, 2, 4, b'abc\0'))
    exif = b''.join(struct.pack('<HHI', *row[:3]) + row[3] for row in rows)
    exif = b'Exif\0\0II*\0' + struct.pack('<IH', 8, len(rows)) + exif + bytes(4)
    Image.new('RGB', (40, 50)).save(photos / 'a.jpg', exif=exif)
    assert counts(build(folder, photos, model)) == (13, 0, 0, 0, 0)


def test_work_before_a_faulty_image_is_kept(folder, photos, model):
    (photos / '10.png').write_bytes(b'no image')
    with pytest.raises(UnreadableImageError, match=r'10\.png'):
        build(folder, photos, model)
    draw_images(photos, [10])
    assert counts(build(folder, photos, model)) == (12, 0, 0, 4, 0)


def test_only_unreadable_images(folder, photos, model):
    for path in photos.rglob('*.*'):
        path.write_bytes(b'no image')
    with pytest.raises(ImageIndexError, match='none of the 12 images'):
        build(folder, photos, model, on_error='skip')


def test_pieces_of_images_that_have_changed_since_do_not_count(folder, photos, model):
    with pytest.raises(ImageIndexError, match='cannot be trained'):
        build(folder, photos, model, factory='IVF64,Flat')
    touch(photos / '01.bmp')
    (photos / '02.png').unlink()
    assert counts(build(folder, photos, model, factory='Flat')) == (11, 0, 0, 10, 0)


def test_damaged_pieces_are_named(folder, photos, model):
    with pytest.raises(ImageIndexError, match='cannot be trained'):
        build(folder, photos, model, factory='IVF64,Flat')
    (piece,) = folder.glob('pieces/*.npz')
    piece.write_bytes(piece.read_bytes()[:100])
    with pytest.raises(ImageIndexError, match=r'000000.npz is damaged .*remove it'):
        build(folder, photos, model)
    piece.unlink()
    assert counts(build(folder, photos, model, factory='Flat')) == (12, 0, 0, 0, 0)


def test_workers(folder, photos, model, tmp_path):
    (photos / '04.png').write_bytes(b'no image')
    index = build(folder, photos, model, workers=2, on_error='skip')
    build(tmp_path / 'alone', photos, model, workers=0, on_error='skip')
    assert counts(index) == (11, 0, 0, 0, 1)
    assert content(folder) == content(tmp_path / 'alone')


def test_batches(photos, model):
    (photos / '04.png').write_bytes(b'no image')
    paths = ['01.bmp', '04.png', '02.png', '05.bmp']
    files = ImageFiles(photos, paths, Embedder(model).transform)
    whole, rest = files.batches(3, 2)
    assert (whole.good, list(whole.faults)) == ([0, 2], [1])
    assert '04.png' in whole.faults[1]
    assert torch.equal(whole.pixels, torch.stack([files[0], files[2]]))
    assert (rest.good, rest.faults, len(rest.pixels)) == ([0], {}, 1)
    (none,) = ImageFiles(photos, ['04.png'], Embedder(model).transform).batches(3, 2)
    assert (none.pixels, none.good, list(none.faults)) == (None, [], [0])


@pytest.mark.skipif(not os.path.isdir('/dev/fd'), reason='needs a list of what is open')
def test_a_batch_takes_few_file_descriptors(photos, model):
    files = ImageFiles(photos, 100 * ['01.bmp'], Embedder(model).transform)
    before = len(os.listdir('/dev/fd'))
    batches = list(files.batches(50, 2))
    assert len(os.listdir('/dev/fd')) - before < 20
    assert [len(batch.pixels) for batch in batches] == [50, 50]


def test_wrong_folders_do_not_cost_the_index(folder, photos, model, tmp_path):
    build(folder, photos, model)
    before = content(folder)
    (tmp_path / 'empty').mkdir()
    for overwrite in (False, True):
        with pytest.raises(ImageIndexError, match='holds no images: is this the folder'):
            build(folder, tmp_path / 'empty', model, overwrite=overwrite)
    draw_images(tmp_path / 'other', [1])
    with pytest.raises(
        ImageIndexError, match=r'is an index of .*photos, not of .*other: .*--index'
    ):
        build(folder, tmp_path / 'other', model)
    with pytest.raises(NotADirectoryError):
        build(folder, tmp_path / 'nowhere', model)
    with pytest.raises(NotADirectoryError):
        build(folder, tmp_path / 'nowhere', model, overwrite=True)
    with pytest.raises(ImageIndexError, match='holds no index of images'):
        build(photos, photos, model)
    assert content(folder) == before
    assert not any((tmp_path / 'nowhere').glob('*'))
    photos.rename(tmp_path / 'moved')
    index = build(folder, tmp_path / 'moved', model, relocate=True)
    assert counts(index) == (0, 0, 0, 0, 0)
    assert index.search('a dog', 1)[0].file.is_file()


def test_an_update_while_an_index_is_opened(folder, photos, model, monkeypatch):
    """The files that the reader was about to read are replaced; it reads the new ones."""
    build(folder, photos, model)
    read = IndexFolder.vectors
    updates = []

    def update_first(self, meta):
        if not updates:
            updates.append(1)
            draw_images(photos, [100])
            build(folder, photos, model)
        return read(self, meta)

    monkeypatch.setattr(IndexFolder, 'vectors', update_first)
    assert len(ImageIndex(folder, model)) == 13
    # What is missing without an update is an error still.
    next(folder.glob('features-*.faiss')).unlink()
    with pytest.raises(ImageIndexError, match='is missing: make the index anew'):
        ImageIndex(folder, model)


def test_an_index_among_the_images(photos, model):
    index = build(photos / 'index', photos, model)
    (photos / 'index' / 'sheet.png').write_bytes(b'no image')
    assert counts(build(photos / 'index', photos, model)) == (0, 0, 0, 0, 0)
    assert len(index) == 12


def test_two_writers(folder, photos, model):
    pytest.importorskip('fcntl', reason='locks need a Unix system')
    build(folder, photos, model)
    with IndexFolder(folder).locked():
        with pytest.raises(ImageIndexError, match='another run writes'):
            build(folder, photos, model)
        assert len(ImageIndex(folder, model)) == 12  # reading goes on


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'on_error': 'ignore'}, r"\('raise', 'skip'\), got 'ignore'"),
        ({'batch_size': 0}, 'batch size of at least 1'),
        ({'workers': -1}, 'no negative number of workers'),
        ({'precision': 'fp64'}, r"\('fp32', 'bf16'\), got 'fp64'"),
    ],
)
def test_faulty_settings(folder, photos, model, settings, message):
    with pytest.raises(ValueError, match=message):
        build(folder, photos, model, **settings)
