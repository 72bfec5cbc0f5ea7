"""Puts configs and tools into the wheel as ``fiber_mm/.mim``, as mmdet does.

All metadata is in setup.cfg.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
MIM = ('configs', 'tools', 'model-index.yml')


class BuildWithMim(build_py):
    """``build_py`` that adds the folder ``.mim``; an editable install needs none."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for source, target in self._mim_files():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        mim = [] if self.editable_mode else [str(target) for _, target in self._mim_files()]
        return super().get_outputs(include_bytecode) + mim

    def _mim_files(self) -> list[tuple[Path, Path]]:
        target = Path(self.build_lib) / 'fiber_mm' / '.mim'
        files = []
        for name in MIM:
            source = ROOT / name
            found = sorted(source.rglob('*')) if source.is_dir() else [source]
            files += [
                (file, target / file.relative_to(ROOT))
                for file in found
                if file.is_file() and '__pycache__' not in file.parts
            ]
        return files


setup(cmdclass={'build_py': BuildWithMim})
