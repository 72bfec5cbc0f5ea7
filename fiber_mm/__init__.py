"""FIBER: vision-language models with fusion in the backbone, on the OpenMMLab stack.

Importing the package registers all its classes; a config of a foreign pipeline needs one line,
``custom_imports = dict(imports=['fiber_mm'])``.
"""

from .version import __version__, check_host_versions

check_host_versions()

# Before anything imports mmcv.ops: a pure-Python mmcv has no compiled operators.
from .compat import mmcv_ops  # noqa: E402

mmcv_ops.install()

from . import datasets, engine, evaluation, models  # noqa: E402
from .config_lookup import get_config  # noqa: E402

__all__ = [
    '__version__',
    'check_host_versions',
    'datasets',
    'engine',
    'evaluation',
    'get_config',
    'models',
]
