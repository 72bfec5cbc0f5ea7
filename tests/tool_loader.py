"""Tools as modules: starting a process for each call would import everything again."""

import importlib.util
from pathlib import Path
from types import ModuleType

TOOLS = Path(__file__).parents[1] / 'tools'


def load_tool(name: str, folder: Path = TOOLS) -> ModuleType:
    """A tool as a fresh module that is not in ``sys.modules``.

    Args:
        name: Its path in ``folder`` without ``.py``, such as ``'dataset_converters/captions'``.
        folder: Where the tools are.
    """
    spec = importlib.util.spec_from_file_location(f'tool_{Path(name).name}', folder / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
