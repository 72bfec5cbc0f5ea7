import errno
import os
from collections import Counter
from pathlib import Path

import pytest

from fiber_mm.index import ImageIndexError
from fiber_mm.index.scan import SUFFIXES, FileState, file_state, kinds, path_id, scan_images


def put(path, content=b'x'):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def test_what_counts_as_an_image(tmp_path):
    for name in ('b.JPG', 'a.png', 'sub/deeper/c.webp', 'sub/ä.gif'):
        put(tmp_path / name)
    for name in ('list.txt', '.hidden.png', '.hidden/d.png', 'png', 'index/e.png'):
        put(tmp_path / name)
    for name in ('e.HEIC', 'sub/f.heic', '.heic', 'index/g.heic'):
        put(tmp_path / name)
    found, others, _ = scan_images(tmp_path, leave_out=tmp_path / 'index')
    assert others == {'.heic': 2, '.txt': 1, '': 1}
    assert list(found) == ['a.png', 'b.JPG', 'sub/deeper/c.webp', 'sub/ä.gif']
    assert found['a.png'] == file_state(tmp_path / 'a.png')
    assert found['a.png'].size == 1


def test_the_suffixes_are_documented():
    text = (Path(__file__).parents[2] / 'docs' / 'search.md').read_text(encoding='utf-8')
    assert ', '.join(f'`{suffix}`' for suffix in SUFFIXES) in ' '.join(text.split())


def test_links_are_followed_and_circles_are_not(tmp_path):
    put(tmp_path / 'elsewhere' / 'a.png')
    put(tmp_path / 'photos' / 'b.png')
    os.symlink(tmp_path / 'elsewhere', tmp_path / 'photos' / 'linked')
    os.symlink(tmp_path / 'photos', tmp_path / 'elsewhere' / 'back')
    os.symlink(tmp_path / 'nothing', tmp_path / 'photos' / 'broken.png')
    os.symlink(tmp_path / 'photos' / 'loop.png', tmp_path / 'photos' / 'loop.png')
    found = scan_images(tmp_path / 'photos').images
    assert list(found) == ['b.png', 'broken.png', 'linked/a.png', 'loop.png']
    assert found['broken.png'] == found['loop.png'] == FileState(-1, -1)


def test_numbers_depend_on_the_path_alone():
    assert path_id('a.png') == path_id('a.png')
    numbers = {path_id(f'{i}.png') for i in range(1000)}
    assert len(numbers) == 1000
    assert all(0 <= number < 2**63 for number in numbers)
    path_id('not unicode \udcff.png')


def test_kinds_in_words():
    assert kinds(Counter({'.mov': 10, '.heic': 11990})) == '.heic 11,990, .mov 10'
    others = Counter({f'.{i}': 10 - i for i in range(7)}) + Counter({'': 20})
    assert kinds(others, 2) == 'without suffix 20, .0 10, further kinds 39'


@pytest.fixture
def closed(tmp_path, monkeypatch):
    """A folder with two that nobody may read, root neither."""
    for name in ('a.png', 'lost+found/b.png', 'open/c.png', 'other/d.png'):
        put(tmp_path / name)
    scandir = os.scandir

    def denied(path):
        if os.path.basename(path) in ('lost+found', 'other'):
            raise PermissionError(errno.EACCES, 'Permission denied', path)
        return scandir(path)

    monkeypatch.setattr(os, 'scandir', denied)
    return tmp_path


def test_folders_that_cannot_be_read(closed):
    message = r'lost\+found cannot be read \(Permission denied\): .*--on-error skip'
    with pytest.raises(ImageIndexError, match=message):
        scan_images(closed)
    found = scan_images(closed, on_error='skip')
    assert list(found.images) == ['a.png', 'open/c.png']
    assert found.unread == [f'{closed / name} (Permission denied)' for name in
                            ('lost+found', 'other')]  # fmt: skip
    with pytest.raises(ImageIndexError, match='the image folder .*lost.*: make it readable$'):
        scan_images(closed / 'lost+found', on_error='skip')


def test_no_folder(tmp_path):
    with pytest.raises(NotADirectoryError, match='there is no image folder'):
        scan_images(tmp_path / 'nowhere')
