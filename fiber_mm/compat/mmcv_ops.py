"""Lets mmcv without compiled operators serve the detectors of mmdet.

``pip install onedl-mmcv`` (or ``mmcv-lite``) gives a pure-Python mmcv that lacks the extension
module ``mmcv._ext``; ``import mmcv.ops``, and with it ``import mmdet.models``, then fails.
``install`` adds an import finder that answers for this one name and gives the module
``mmcv_ext.py`` beside this file: the operators that are needed here on torchvision, and a clear
refusal for each other one.

The finder is the last of all, so a compiled ``mmcv._ext`` is always found first and used.

This file imports nothing but the standard library, so that it can run when Python starts
(``enable``).
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import sysconfig
from importlib.machinery import ModuleSpec
from types import ModuleType

EXTENSION = 'mmcv._ext'
SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'mmcv_ext.py')
# A phrase in the code of the placeholders that OneDL's mmdet defines where mmcv.ops fails.
_PLACEHOLDER_MARK = 'requires mmcv to be compiled'

_PTH_NAME = 'fiber_mm_mmcv_ops.pth'
# Silent if the package was moved or removed: a .pth file must not disturb other programs.
_PTH_LINE = (
    'import os; p = {path!r}; '
    "g = {{'__name__': 'fiber_mm_mmcv_ops', '__file__': p}}; "
    "os.path.exists(p) and (exec(compile(open(p, 'rb').read(), p, 'exec'), g), g['install']())\n"
)


class StandInFinder:
    """Import finder for ``mmcv._ext`` alone."""

    # Looked at instead of the class: the file may run under two module names in one process.
    fiber_mm_stand_in = True

    @classmethod
    def find_spec(cls, fullname: str, path=None, target=None) -> ModuleSpec | None:
        """Protocol of ``sys.meta_path``."""
        if fullname != EXTENSION:
            return None
        return importlib.util.spec_from_file_location(fullname, SOURCE)


def install() -> None:
    """Make ``mmcv._ext`` importable, compiled or not. Calling it again changes nothing.

    Modules of mmdet that were imported before, without operators, are repaired.
    """
    if not any(getattr(finder, 'fiber_mm_stand_in', False) for finder in sys.meta_path):
        sys.meta_path.append(StandInFinder)
    repair_placeholders()


def is_compiled() -> bool:
    """Whether mmcv has its own compiled operators.

    Raises:
        ModuleNotFoundError: If there is no mmcv at all.
    """
    if EXTENSION in sys.modules:
        return sys.modules[EXTENSION].__file__ != SOURCE
    spec = importlib.util.find_spec(EXTENSION)
    return spec is not None and spec.origin != SOURCE


def _is_placeholder(value: object, module: ModuleType) -> bool:
    if getattr(value, '__module__', None) != module.__name__:
        return False
    function = value.__init__ if isinstance(value, type) else value
    code = getattr(function, '__code__', None)
    return code is not None and any(
        isinstance(const, str) and _PLACEHOLDER_MARK in const for const in code.co_consts
    )


def repair_placeholders() -> list[str]:
    """Put the real operators where host modules, imported too early, hold placeholders.

    mmdet guards most imports of ``mmcv.ops`` and defines functions that only raise. mmdet's own
    ``tools/train.py`` imports such modules before it reads a config and imports fiber_mm.

    Returns:
        The names that were repaired, as 'module.name'.
    """
    todo: list[tuple[ModuleType, str]] = []
    for module_name, module in list(sys.modules.items()):
        if module is None or not module_name.startswith(('mmdet.', 'mmpretrain.')):
            continue
        todo += [
            (module, name)
            for name, value in list(vars(module).items())
            if _is_placeholder(value, module)
        ]
    transformer = sys.modules.get('mmcv.cnn.bricks.transformer')
    if transformer is not None and not hasattr(transformer, 'MultiScaleDeformableAttention'):
        todo.append((transformer, 'MultiScaleDeformableAttention'))
    if not todo:
        return []
    ops = importlib.import_module('mmcv.ops')
    repaired = []
    for module, name in todo:
        if hasattr(ops, name):
            setattr(module, name, getattr(ops, name))
            repaired.append(f'{module.__name__}.{name}')
    return repaired


def enable(folder: str | None = None) -> str:
    """Make ``mmcv._ext`` importable in every program of an environment.

    mmdet's own ``tools/test.py`` imports ``mmdet.models`` before it reads the config that names
    fiber_mm. This writes one line into a ``.pth`` file, which runs ``install`` when Python starts.

    Args:
        folder: Site-packages of the environment; of the running one by default.

    Returns:
        The path of the file.
    """
    path = os.path.join(folder or sysconfig.get_path('purelib'), _PTH_NAME)
    with open(path, 'w', encoding='utf-8') as file:
        file.write(_PTH_LINE.format(path=os.path.abspath(__file__)))
    return path


def disable(folder: str | None = None) -> str:
    """Undo ``enable``; returns the path that is not there any more."""
    path = os.path.join(folder or sysconfig.get_path('purelib'), _PTH_NAME)
    if os.path.exists(path):
        os.remove(path)
    return path
