"""Finding the configs that come with the package, installed or in a source tree."""

from __future__ import annotations

import difflib
from pathlib import Path

from mmengine.config import Config

_PACKAGE = Path(__file__).resolve().parent


def config_folder() -> Path:
    """The folder of configs: beside the package in a source tree, else in the wheel.

    Raises:
        FileNotFoundError: If there is neither.
    """
    # A name at the top of site-packages could be anybody's: ask for a file that is ours.
    for folder in (_PACKAGE.parent / 'configs', _PACKAGE / '.mim' / 'configs'):
        if (folder / 'grounding').is_dir():
            return folder
    raise FileNotFoundError(
        f'no configs beside {_PACKAGE} nor in {_PACKAGE / ".mim"}; '
        'reinstall fiber_mm from a complete source tree or wheel'
    )


def config_names() -> list[str]:
    """Names that ``get_config`` takes, such as 'grounding/fiber_nano_1xb8_shapes'."""
    folder = config_folder()
    names = (path.relative_to(folder).with_suffix('') for path in folder.rglob('*.py'))
    return sorted(name.as_posix() for name in names if name.parts[0] != '_base_')


def get_config_path(name: str) -> Path:
    """Path of a config that comes with the package.

    Args:
        name: Path below the folder of configs, with or without 'configs/' and '.py'; the file's
            name alone is enough where it is unique.

    Raises:
        FileNotFoundError: If there is no such config; the message lists close matches.
    """
    wanted = name.removeprefix('configs/').removesuffix('.py')
    names = config_names()
    matches = [n for n in names if n == wanted] or [
        n for n in names if n.rpartition('/')[2] == wanted
    ]
    if len(matches) == 1:
        return config_folder() / f'{matches[0]}.py'
    if matches:
        raise FileNotFoundError(f'{name!r} names several configs, give one: {", ".join(matches)}')
    by_file = {n.rpartition('/')[2]: n for n in names}
    close = difflib.get_close_matches(wanted, names, n=5, cutoff=0.4)
    close += [
        by_file[stem]
        for stem in difflib.get_close_matches(wanted.rpartition('/')[2], by_file, n=5, cutoff=0.5)
        if by_file[stem] not in close
    ]
    hint = f'close ones: {", ".join(close)}' if close else f'there are: {", ".join(names)}'
    raise FileNotFoundError(f'no config {name!r} in {config_folder()}; {hint}')


def get_config(name: str) -> Config:
    """Load a config that comes with the package.

    Args:
        name: See ``get_config_path``.

    Raises:
        FileNotFoundError: If there is no such config; the message lists close matches.
    """
    return Config.fromfile(str(get_config_path(name)))
