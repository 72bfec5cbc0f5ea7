import os

import pytest

from fiber_mm.index.scan import FileState, file_state, path_id, scan_images


def put(path, content=b'x'):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def test_what_counts_as_an_image(tmp_path):
    for name in ('b.JPG', 'a.png', 'sub/deeper/c.webp', 'sub/ä.gif'):
        put(tmp_path / name)
    for name in ('list.txt', '.hidden.png', '.hidden/d.png', 'png', 'index/e.png'):
        put(tmp_path / name)
    found = scan_images(tmp_path, leave_out=tmp_path / 'index')
    assert list(found) == ['a.png', 'b.JPG', 'sub/deeper/c.webp', 'sub/ä.gif']
    assert found['a.png'] == file_state(tmp_path / 'a.png')
    assert found['a.png'].size == 1


def test_links_are_followed_and_circles_are_not(tmp_path):
    put(tmp_path / 'elsewhere' / 'a.png')
    put(tmp_path / 'photos' / 'b.png')
    os.symlink(tmp_path / 'elsewhere', tmp_path / 'photos' / 'linked')
    os.symlink(tmp_path / 'photos', tmp_path / 'elsewhere' / 'back')
    os.symlink(tmp_path / 'nothing', tmp_path / 'photos' / 'broken.png')
    found = scan_images(tmp_path / 'photos')
    assert list(found) == ['b.png', 'broken.png', 'linked/a.png']
    assert found['broken.png'] == FileState(-1, -1)


def test_numbers_depend_on_the_path_alone():
    assert path_id('a.png') == path_id('a.png')
    numbers = {path_id(f'{i}.png') for i in range(1000)}
    assert len(numbers) == 1000
    assert all(0 <= number < 2**63 for number in numbers)
    path_id('not unicode \udcff.png')


def test_no_folder(tmp_path):
    with pytest.raises(NotADirectoryError, match='there is no image folder'):
        scan_images(tmp_path / 'nowhere')
