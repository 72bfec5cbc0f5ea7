"""What all tests share: seeds, threads, no network."""

import os

# Before torch is imported. Two threads at most: more only get in each other's way on tiny models.
os.environ.setdefault('OMP_NUM_THREADS', str(min(2, os.cpu_count() or 1)))
# Tests are on the CPU, even beside a GPU; the few that compare the two want it shown.
os.environ.update({} if os.environ.get('FIBER_TEST_CUDA') == '1' else {'CUDA_VISIBLE_DEVICES': ''})
# Formulations by their defaults.
os.environ.pop('FIBER_LINEAR', None)
os.environ.pop('FIBER_DEFORM_BACKEND', None)
# A test that would download fails at once and says so.
os.environ['HF_HUB_OFFLINE'] = '1'
os.environ['TOKENIZERS_PARALLELISM'] = 'false'

import contextlib
import gc
import random

import numpy as np
import pytest
import quick_runs
import torch
from mmdet.visualization import DetLocalVisualizer
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer

import fiber_mm  # noqa: F401  (registers all classes, whatever test runs first)

SEED = 0

# mmengine collects garbage for every data set: not through all that was imported each time.
gc.freeze()


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Each test starts from the same random state, whichever ran before it."""
    random.seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002  (mmdet's transforms draw from the global state)
    torch.manual_seed(SEED)


@contextlib.contextmanager
def _nothing_global():
    """mmengine keeps the default scope and visualisers for the whole process.

    Later tests must not see them: a visualiser is even taken over by the next run that starts in
    the same second.
    """
    kept = [
        (cls, cls._instance_dict.copy()) for cls in (DefaultScope, Visualizer, DetLocalVisualizer)
    ]
    yield
    for cls, before in kept:
        cls._instance_dict.clear()
        cls._instance_dict.update(before)


@pytest.fixture(autouse=True)
def _nothing_global_left_behind():
    with _nothing_global():
        yield


@pytest.fixture(autouse=True, scope='module')
def _nothing_global_left_behind_by_a_module():
    """As much of the fixtures that a module shares: they are set up after this one."""
    with _nothing_global():
        yield


@pytest.fixture
def quick_launch(monkeypatch):
    """Processes that share a run do not import everything anew."""
    monkeypatch.setattr(quick_runs.launching, 'LaunchConfig', quick_runs.launch_config)


@pytest.fixture(scope='session')
def nothing_global():
    """The same for fixtures of a session: a context that leaves nothing behind."""
    return _nothing_global
