"""Host programs that do not import fiber_mm first, on an mmcv without compiled operators.

    python -m fiber_mm.compat test CONFIG CHECKPOINT    one of mmdet's own tools, once
    python -m fiber_mm.compat path/to/script.py ARGS    any script, once
    python -m fiber_mm.compat --enable                  every program of this environment
    python -m fiber_mm.compat --disable                 undo that

mmdet's ``tools/test.py`` imports ``mmdet.models`` before it reads the config whose
``custom_imports`` names fiber_mm; with an uncompiled mmcv that fails. ``--enable`` writes one
line into a ``.pth`` file of the environment, which makes the stand-ins known when Python starts
(well under a millisecond, nothing else is imported). Compiled operators are used where they exist.
"""

from __future__ import annotations

import argparse
import runpy
import sys
from pathlib import Path

from . import mmcv_ops


def find_script(name: str) -> Path:
    """A script by path, or one of mmdet's own tools by name ('train', 'test', ...).

    Raises:
        FileNotFoundError: If there is neither.
    """
    import mmdet

    script = Path(name)
    if script.suffix == '.py':
        if script.is_file():
            return script
        raise FileNotFoundError(f'no script {name!r}; give the path of a Python file')
    tools = Path(mmdet.__file__).parent / '.mim' / 'tools'
    found = sorted(tools.rglob(f'{name}.py'), key=lambda path: len(path.parts))
    if not found:
        raise FileNotFoundError(
            f"no tool {name!r} in {tools}; give 'train', 'test' or the path of a script"
        )
    return found[0]


def main(argv: list[str] | None = None) -> None:
    """Command line; see the text at the top of the file."""
    parser = argparse.ArgumentParser(
        prog='python -m fiber_mm.compat',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument('--enable', action='store_true', help='for the whole environment')
    group.add_argument('--disable', action='store_true', help='undo --enable')
    parser.add_argument('script', nargs='?', help="'train', 'test' or the path of a script")
    parser.add_argument('args', nargs=argparse.REMAINDER, help='arguments of the script')
    args = parser.parse_args(argv)

    if args.enable:
        sys.stdout.write(f'wrote {mmcv_ops.enable()}\n')
    elif args.disable:
        sys.stdout.write(f'removed {mmcv_ops.disable()}\n')
    elif args.script:
        script = find_script(args.script)
        # As Python does for "python script.py".
        sys.argv = [str(script), *args.args]
        sys.path.insert(0, str(script.resolve().parent))
        runpy.run_path(str(script), run_name='__main__')
    else:
        parser.error("wanted: --enable, --disable, or a script ('train', 'test', a path)")


if __name__ == '__main__':
    main()
