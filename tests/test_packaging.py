"""The wheel, the frozen set of packages, and the two scripts that install and check."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from fiber_mm import __version__
from fiber_mm.version import HOST_PACKAGES

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ('3.10', '3.11', '3.12')

if not (ROOT / 'setup.cfg').is_file():
    pytest.skip('not in a source tree', allow_module_level=True)


def requirements(name: str) -> list[Requirement]:
    lines = (ROOT / 'requirements' / name).read_text().splitlines()
    return [Requirement(line) for line in lines if line.strip() and not line.startswith('#')]


def frozen(python: str) -> dict[str, Version]:
    """Package to version, for one Python on Linux."""
    environment = {
        'python_version': python,
        'python_full_version': f'{python}.9',
        'sys_platform': 'linux',
        'platform_system': 'Linux',
        'platform_machine': 'x86_64',
    }
    result = {}
    for requirement in requirements('constraints.txt'):
        if requirement.marker is None or requirement.marker.evaluate(environment):
            assert requirement.name not in result, f'{requirement.name} is frozen twice'
            (pin,) = requirement.specifier
            assert pin.operator == '=='
            result[requirement.name] = Version(pin.version)
    return result


@pytest.mark.parametrize('python', PYTHONS)
def test_frozen_set_holds_all_requirements(python):
    pins = frozen(python)
    for name in ('runtime.txt', 'tests.txt', 'optional.txt'):
        for requirement in requirements(name):
            version = pins[requirement.name]
            assert requirement.specifier.contains(version), f'{requirement} but {version}'


@pytest.mark.parametrize('python', PYTHONS)
def test_frozen_set_is_within_what_the_package_accepts(python):
    pins = frozen(python)
    for distributions, lowest, too_new in HOST_PACKAGES.values():
        assert Version(lowest) <= pins[distributions[0]] < Version(too_new)


@pytest.mark.slow
def test_wheel(tmp_path):
    """Built from a copy, installed in a folder, it finds its configs there."""
    tracked = subprocess.run(
        ['git', 'ls-files', '-co', '--exclude-standard', '-z'],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if tracked.returncode != 0:
        pytest.skip('needs git and a clone')
    source = tmp_path / 'source'
    for name in filter(None, tracked.stdout.decode().split('\0')):
        if name.startswith('tests/') or not (ROOT / name).is_file():
            continue
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, source / name)

    code = (
        # setuptools replaces sys.argv while it builds.
        'import sys; from setuptools import build_meta; out = sys.argv[1];'
        'build_meta.build_wheel(out); build_meta.build_sdist(out)'
    )
    done = subprocess.run(
        [sys.executable, '-c', code, str(tmp_path)],
        cwd=source,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob('*.whl')
    assert wheel.name == f'fiber_mm-{__version__}-py3-none-any.whl'
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ('configs', 'tools'):
        for path in (source / folder).rglob('*.py'):
            assert f'fiber_mm/.mim/{path.relative_to(source)}' in names
    assert 'fiber_mm/.mim/model-index.yml' in names
    tops = {name.split('/')[0] for name in names}
    assert tops == {'fiber_mm', f'fiber_mm-{__version__}.dist-info'}
    assert any(name.endswith('licenses/NOTICE') for name in names)
    (sdist,) = tmp_path.glob('*.tar.gz')
    with tarfile.open(sdist) as archive:
        unpacked = {name.partition('/')[2] for name in archive.getnames()}
    assert {'Makefile', 'requirements/install.sh', '.ci/run', 'docs/data.md'} <= unpacked
    metadata = zipfile.ZipFile(wheel).read(f'fiber_mm-{__version__}.dist-info/METADATA').decode()
    assert re.search(r'^Requires-Dist: transformers<5,>=', metadata, re.MULTILINE)
    assert re.search(r'^Provides-Extra: optional$', metadata, re.MULTILINE)

    site = tmp_path / 'site'
    zipfile.ZipFile(wheel).extractall(site)
    code = (
        'import sys; sys.path.insert(0, sys.argv[1]); import fiber_mm;'
        'from fiber_mm.config_lookup import config_names;'
        'config = fiber_mm.get_config(config_names()[0]);'
        'print(config.filename); print(fiber_mm.__file__)'
    )
    done = subprocess.run(
        [sys.executable, '-c', code, str(site)],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    config, module = done.stdout.splitlines()[-2:]
    assert config.startswith(str(site / 'fiber_mm' / '.mim' / 'configs'))
    assert module.startswith(str(site))


def unsupported_python(folder: Path) -> Path:
    """An interpreter that fails the check of its version and cannot do anything else."""
    path = folder / 'python-of-the-future'
    path.write_text('#!/bin/sh\nexit 1\n')
    path.chmod(0o755)
    return path


def install(*args: str, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ['bash', str(ROOT / 'requirements' / 'install.sh'), *args],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )


def stand_in(folder: Path, name: str, version: str) -> None:
    """A wheel with a module that prints its name and version."""
    info = f'{name}-{version}.dist-info'
    files = {
        f'{name}.py': f"print('{name} {version}')\n",
        f'{info}/METADATA': f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n',
        f'{info}/WHEEL': 'Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n',
    }
    record = ''.join(f'{path},,\n' for path in [*files, f'{info}/RECORD'])
    with zipfile.ZipFile(folder / f'{name}-{version}-py3-none-any.whl', 'w') as wheel:
        for path, text in {**files, f'{info}/RECORD': record}.items():
            wheel.writestr(path, text)


class TestInstall:
    def test_python_out_of_range(self, tmp_path):
        python = unsupported_python(tmp_path)
        done = install(VENV=str(tmp_path / 'venv'), PYTHON3=str(python))
        assert done.returncode == 1
        assert f'no Python 3.10 to 3.12 among: {python}' in done.stderr
        assert not (tmp_path / 'venv').exists()

    def test_foreign_folder_is_left_alone(self, tmp_path):
        folder = tmp_path / 'venv'
        folder.mkdir()
        (folder / 'thesis.txt').write_text('years of work')
        done = install(VENV=str(folder), PYTHON3=sys.executable)
        assert done.returncode == 1
        assert 'is no virtual environment' in done.stderr
        assert (folder / 'thesis.txt').read_text() == 'years of work'

    def test_an_environment_can_be_made_anew_by_its_own_python(self, tmp_path):
        """As where it is active and the requirements have changed; no network: uv is a stand-in."""
        base = getattr(sys, '_base_executable', sys.executable)
        wheels = tmp_path / 'wheels'
        wheels.mkdir()
        version = re.search(
            r'^UV_VERSION=(.+)$', (ROOT / 'requirements/install.sh').read_text(), re.MULTILINE
        )[1]
        stand_in(wheels, 'uv', version)
        folder = tmp_path / 'venv'
        subprocess.run([base, '-m', 'venv', '--without-pip', str(folder)], check=True)
        (folder / 'old.txt').touch()
        (tmp_path / 'venv.old.1').mkdir()  # of a removal that was interrupted
        env = dict(
            VENV=str(folder), PYTHON3=str(folder / 'bin' / 'python'),
            PIP_NO_INDEX='1', PIP_FIND_LINKS=str(wheels),
        )  # fmt: skip
        done = install('--uv', **env)
        assert done.returncode == 0, done.stderr
        assert not (folder / 'old.txt').exists()
        assert [path.name for path in tmp_path.iterdir() if 'venv' in path.name] == ['venv']
        made = (folder / 'pyvenv.cfg').stat().st_mtime_ns
        assert install('--uv', **env).returncode == 0
        assert (folder / 'pyvenv.cfg').stat().st_mtime_ns == made, 'kept: it has the wanted uv'


def test_help_lists_the_two_commands():
    done = subprocess.run(['make', 'help'], cwd=ROOT, capture_output=True, text=True, check=True)
    assert re.search(r'^ *make demo ', done.stdout, re.MULTILINE)
    assert re.search(r'^ *make test ', done.stdout, re.MULTILINE)
