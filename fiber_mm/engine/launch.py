"""Several processes of one machine that work on one run, each with its share of the cores.

On a CPU, small operations gain little from threads, and threads wait for each other whenever
something else needs a core. torchrun does the same from a command line; this is for calls from
Python.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from .cpu import tune_cpu_allocator

T = TypeVar('T')


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def launch(function: Callable[..., T], *args: Any, processes: int) -> T:
    """Call a function in several processes that can join one process group.

    Args:
        function: of a module, so that other processes can import it.
        *args: can be pickled.
        processes: how many; 1 calls the function here, without a process group.

    Returns:
        What the function returned on rank 0.

    Raises:
        torch.distributed.elastic.multiprocessing.errors.ChildFailedError: a process failed; its
            traceback is on the console, and the others were stopped.
    """
    if processes == 1:
        return function(*args)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=str(uuid.uuid4()),
        rdzv_backend='c10d',
        rdzv_endpoint='localhost:0',
        max_restarts=0,
        start_method='spawn',
    )
    threads = max(1, available_cores() // processes)
    return elastic_launch(config, _call)(function, args, threads)[0]


def _call(function: Callable[..., T], args: tuple, threads: int) -> T:
    tune_cpu_allocator()
    torch.set_num_threads(threads)
    return function(*args)
