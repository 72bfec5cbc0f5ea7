"""Version of the package, and the versions of the host packages that it works with."""

from __future__ import annotations

from importlib import import_module, metadata
from importlib.util import find_spec

__version__ = '0.1.0'

# import name: (names of distributions that provide it, lowest version, first version that is
# too new). OpenMMLab's own releases and the maintained OneDL builds share the import names.
HOST_PACKAGES: dict[str, tuple[tuple[str, ...], str, str]] = {
    'torch': (('torch',), '2.6', '3'),
    'torchvision': (('torchvision',), '0.21', '1'),
    'mmengine': (('onedl-mmengine', 'mmengine', 'mmengine-lite'), '0.10.4', '1'),
    'mmcv': (('onedl-mmcv', 'mmcv', 'mmcv-lite'), '2.1', '3'),
    'mmdet': (('onedl-mmdetection', 'mmdet'), '3.3', '4'),
    'mmpretrain': (('onedl-mmpretrain', 'mmpretrain'), '1.2', '2'),
    'transformers': (('transformers',), '4.45', '5'),
}

_HOW_TO = 'Install the tested set with: pip install -r requirements/runtime.txt'


def _installed_version(name: str, distributions: tuple[str, ...]) -> str | None:
    for distribution in distributions:
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    # A source tree on the path has no metadata.
    if find_spec(name) is not None:
        return getattr(import_module(name), '__version__', None)
    return None


def _key(version: str) -> tuple[int, ...]:
    """Numbers of a version; what follows them ('rc1', '+cu128') does not count here."""
    numbers = []
    for part in version.split('+')[0].split('.'):
        digits = part[: len(part) - len(part.lstrip('0123456789'))]
        if not digits:
            break
        numbers.append(int(digits))
        if digits != part:
            break
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def check_host_versions(
    packages: dict[str, tuple[tuple[str, ...], str, str]] | None = None,
) -> dict[str, str]:
    """Check that the host packages are installed in versions that are supported.

    Args:
        packages: Import name to (distributions, lowest version, first version too new);
            ``HOST_PACKAGES`` by default.

    Returns:
        Import name to installed version.

    Raises:
        ImportError: If packages are missing, too old or too new; the message lists them all.
    """
    found, problems = {}, []
    for name, (distributions, lowest, too_new) in (packages or HOST_PACKAGES).items():
        version = _installed_version(name, distributions)
        wanted = f'>={lowest},<{too_new}'
        if version is None:
            problems.append(f'{name} is not installed (wanted: {distributions[0]} {wanted})')
        elif not _key(lowest) <= _key(version) < _key(too_new):
            problems.append(f'{name} is {version} (wanted: {distributions[0]} {wanted})')
        else:
            found[name] = version
    if problems:
        raise ImportError(
            'fiber_mm cannot work with these packages: ' + '; '.join(problems) + f'. {_HOW_TO}'
        )
    return found
