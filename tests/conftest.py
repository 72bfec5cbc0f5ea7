"""What all tests share: seeds, threads, no network."""

import os

# Before torch is imported. Two threads at most: more only get in each other's way on tiny models.
os.environ.setdefault('OMP_NUM_THREADS', str(min(2, os.cpu_count() or 1)))
# A test that would download fails at once and says so.
os.environ['HF_HUB_OFFLINE'] = '1'
os.environ['TOKENIZERS_PARALLELISM'] = 'false'

import random

import numpy as np
import pytest
import torch
from mmdet.visualization import DetLocalVisualizer
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer

import fiber_mm  # noqa: F401  (registers all classes, whatever test runs first)

SEED = 0


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Each test starts from the same random state, whichever ran before it."""
    random.seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002  (mmdet's transforms draw from the global state)
    torch.manual_seed(SEED)


@pytest.fixture(autouse=True)
def _nothing_global_left_behind():
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
