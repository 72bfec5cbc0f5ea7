"""Configs are found by name."""

import pytest
from mmengine.config import Config

import fiber_mm
from fiber_mm import config_lookup


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of configs in place of the project's own."""
    for name in ('_base_/model', 'grounding/fiber_nano', 'grounding/fiber_swin-b', 'vqa/fiber_vqa'):
        path = tmp_path / 'configs' / f'{name}.py'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'name = {name!r}\n')
    (tmp_path / 'configs' / 'vqa' / 'fiber_nano.py').write_text('')
    monkeypatch.setattr(config_lookup, '_PACKAGE', tmp_path / 'fiber_mm')
    return tmp_path / 'configs'


def test_all_of_the_project_are_found():
    names = config_lookup.config_names()
    assert any(name.startswith('grounding/') for name in names)
    assert not any(name.startswith('_base_') for name in names)
    for name in names:
        assert config_lookup.get_config_path(name).is_file()


def test_gives_a_config(folder):
    config = fiber_mm.get_config('grounding/fiber_swin-b')
    assert isinstance(config, Config)
    assert config.name == 'grounding/fiber_swin-b'


@pytest.mark.parametrize('name', ['vqa/fiber_vqa', 'configs/vqa/fiber_vqa.py', 'fiber_vqa'])
def test_spellings(folder, name):
    assert config_lookup.get_config_path(name) == folder / 'vqa' / 'fiber_vqa.py'


def test_ambiguous_name(folder):
    with pytest.raises(FileNotFoundError, match='grounding/fiber_nano, vqa/fiber_nano'):
        fiber_mm.get_config('fiber_nano')


def test_unknown_name_lists_close_ones(folder):
    with pytest.raises(FileNotFoundError, match="no config 'grounding/fiber_swinb'.*close ones:"):
        fiber_mm.get_config('grounding/fiber_swinb')
    with pytest.raises(FileNotFoundError, match='close ones:.*vqa/fiber_vqa'):
        fiber_mm.get_config('fiber-vqa')


def test_bases_are_no_configs(folder):
    with pytest.raises(FileNotFoundError):
        fiber_mm.get_config('_base_/model')


def test_installed_folder(folder, monkeypatch):
    """In a wheel the configs are inside of the package."""
    package = folder.parent / 'site' / 'fiber_mm'
    (package / '.mim').mkdir(parents=True)
    folder.rename(package / '.mim' / 'configs')
    monkeypatch.setattr(config_lookup, '_PACKAGE', package)
    assert fiber_mm.get_config('vqa/fiber_vqa').name == 'vqa/fiber_vqa'


def test_no_configs_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(config_lookup, '_PACKAGE', tmp_path / 'fiber_mm')
    with pytest.raises(FileNotFoundError, match='reinstall fiber_mm'):
        fiber_mm.get_config('fiber_nano')
