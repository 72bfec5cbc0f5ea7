"""Runs and processes that start at once: without what no test looks at, which takes seconds each.

Importing this is enough for runs; processes from :func:`server` have imported it, too.
"""

import ast
import importlib
import itertools
import multiprocessing
import os
import sys
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from typing import Any
from unittest import mock

import mmengine.runner.runner
from mmengine.runner import Runner
from torch.distributed.launcher.api import LaunchConfig
from yapf.yapflib import yapf_api

import fiber_mm  # noqa: F401  (registers all classes)

launching = importlib.import_module('fiber_mm.engine.launch')


def only_parse(text: str, **_: Any) -> tuple[str, bool]:
    """In place of yapf, which takes seconds to format a config."""
    ast.parse(text)
    return text, False


_runs, _setup_env = itertools.count(), Runner.setup_env


def setup_env(self: Runner, env_cfg: dict) -> None:
    """Runs of one second would share their names, and with them loggers and visualisers."""
    _setup_env(self, env_cfg)
    self._timestamp += f'_{next(_runs):04}'


Runner.setup_env = setup_env
mmengine.runner.runner.collect_env = dict  # describes the machine, for the log
yapf_api.FormatCode = only_parse


def server() -> ForkServerContext:
    """Makes processes that have imported everything, so that only the first one is slow."""
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload([__name__])
    # The server of Python before 3.13 does not search sys.path for what to import first.
    with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)):
        forkserver.ensure_running()
    return context


def launch_config(**settings: Any) -> LaunchConfig:
    """In place of ``launching.LaunchConfig``: processes are from the server."""
    server()
    return LaunchConfig(**settings | dict(start_method='forkserver'))
