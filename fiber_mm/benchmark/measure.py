"""Measuring: each formulation in a fresh process of its own, taking turns.

Taking turns makes ratios hold on a machine whose speed drifts; a fresh process makes its
largest resident set the peak memory of that formulation alone (the libraries included).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import multiprocessing
import statistics
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from fiber_mm.core.linear import set_linear_backend
from fiber_mm.engine.cpu import tune_cpu_allocator

from .cases import CASES, Spec
from .plain import plain_formulation

# What the last line of ``tools/benchmark.py`` holds.
KEYS = (
    'name',
    'precision',
    'seconds',
    'runs',
    'peak_memory_mb',
    'threads',
    'peak_gflops',
    'fraction',
)
DTYPES = dict(fp32=torch.float32, bf16=torch.bfloat16)


def wait_for(device: str) -> None:
    """Until the device has done its work."""
    if torch.device(device).type == 'cuda':
        torch.cuda.synchronize(device)


def seconds_of(function, device: str) -> float:
    """Wall-clock time of one call."""
    wait_for(device)
    start = time.perf_counter()
    function()
    wait_for(device)
    return time.perf_counter() - start


def peak_gflops(precision: str, device: str, repeats: int = 5, side: int = 2048) -> float:
    """Best rate of ``torch.mm`` and of a 1x1 convolution, in 1e9 operations a second.

    For bf16 on a CPU the best of products in bf16 and in fp32: without instructions for bf16 our
    linear layers multiply in fp32.
    """
    kinds = [precision]
    if precision == 'bf16' and torch.device(device).type == 'cpu':
        kinds.append('fp32')
    functions = []
    for kind in kinds:
        a, b = (torch.full((side, side), 1e-3, dtype=DTYPES[kind], device=device) for _ in 'ab')
        image = a.view(1, side // 32, 32, side).permute(0, 3, 1, 2)  # channels last
        functions.append(functools.partial(torch.mm, a, b))
        functions.append(functools.partial(F.conv2d, image, b[:, :, None, None]))
    with torch.inference_mode():
        best = min(seconds_of(f, device) for _ in range(repeats) for f in functions)
    return 2 * side**3 / best / 1e9


def peak_memory_mb(device: str) -> float:
    """Largest resident set of this process, or largest allocation on a GPU, in 2**20 bytes."""
    if torch.device(device).type == 'cuda':
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path('/proc/self/status')
    if status.exists():
        # Not resource.getrusage: on Linux that starts with what the parent process needed.
        lines = dict(line.split(':', 1) for line in status.read_text().splitlines())
        return int(lines['VmHWM'].split()[0]) / 1024
    import resource  # not on Windows

    unit = 1 if sys.platform == 'darwin' else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def serve(connection: Connection, spec: Spec, threads: int | None) -> None:
    """A worker: builds the case, then answers ``run``, ``NAME`` (beside), ``peak``, ``stop``."""
    if threads:
        torch.set_num_threads(threads)
    torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32, for convolutions, too
    if not spec.plain:
        tune_cpu_allocator()
        set_linear_backend('auto')
    with plain_formulation() if spec.plain else contextlib.nullcontext():
        case = CASES[spec.case](spec)
        calls = dict(case.beside, run=case.run)
        for call in calls.values():
            call()  # warm
        about = dict(flops=case.flops, threads=torch.get_num_threads(), beside=list(case.beside))
        connection.send(about)
        while (order := connection.recv()) != 'stop':
            if order == 'peak':
                connection.send(peak_gflops(spec.precision, spec.device))
            else:
                connection.send(seconds_of(calls[order], spec.device))
        connection.send(peak_memory_mb(spec.device))


class Worker:
    """A process that runs one formulation.

    Args:
        spec: What it runs.
        threads: CPU threads; None leaves torch's own choice.
    """

    def __init__(self, spec: Spec, threads: int | None = None) -> None:
        context = multiprocessing.get_context('spawn')
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, spec, threads), daemon=True)
        self.process.start()
        theirs.close()
        self.about: dict[str, Any] = self._answer()

    def _answer(self) -> Any:
        try:
            return self.connection.recv()
        except EOFError:
            self.process.join()
            raise RuntimeError(
                f'the benchmark process ended with exit code {self.process.exitcode}; '
                'its own message is above (-9: out of memory)'
            ) from None

    def ask(self, order: str) -> Any:
        """See :func:`serve`."""
        self.connection.send(order)
        return self._answer()

    def stop(self) -> float:
        """Ends the process; returns its peak memory."""
        memory = self.ask('stop')
        self.process.join()
        return memory


@dataclasses.dataclass
class Measured:
    """What a worker was asked for.

    Attributes:
        about: What it said of itself.
        seconds: Of each timed run, by name (``run`` and what is beside it).
        peaks: Of the machine before each run, in 1e9 operations a second; empty if plain.
        memory: Peak of its process, in MB.
    """

    about: dict[str, Any]
    seconds: dict[str, list[float]]
    peaks: list[float]
    memory: float = 0.0


def run_in_turns(specs: Sequence[Spec], runs: int, threads: int | None = None) -> list[Measured]:
    """Runs cases that take turns, each in a process of its own; all must fit into memory.

    Raises: RuntimeError: if a process dies.
    """
    workers = [Worker(spec, threads) for spec in specs]
    found = []
    for spec, worker in zip(specs, workers):
        names = ['run'] if spec.plain else ['run', *worker.about['beside']]
        found.append(Measured(worker.about, {name: [] for name in names}, []))
    for _ in range(runs):
        for spec, worker, measured in zip(specs, workers, found):
            if not spec.plain:
                measured.peaks.append(worker.ask('peak'))
            for name, times in measured.seconds.items():
                times.append(worker.ask(name))
    for worker, measured in zip(workers, found):
        measured.memory = worker.stop()
    return found


def compare(
    spec: Spec,
    runs: int,
    against_plain: bool,
    threads: int | None = None,
    take_turns: bool = True,
) -> dict:
    """Measures a case, and beside it the plain formulation in fp32.

    Args:
        spec: What to measure.
        runs: Timed runs of each formulation, after one to warm up.
        against_plain: Whether the plain formulation runs, too.
        threads: CPU threads; None leaves torch's own choice.
        take_turns: Whether both are in memory at a time and their runs alternate; False runs one
            after the other, where a machine that drifts disturbs the ratio.
    Returns: :data:`KEYS`, ``tflop``, ``device``, and what was measured beside the case.
    Raises: RuntimeError: if a process dies.
    """
    specs = [spec]
    if against_plain:
        specs.append(dataclasses.replace(spec, plain=True, precision='fp32'))
    # Large blocks stay in a process (see tune_cpu_allocator): both must fit.
    groups = [specs] if take_turns else [[each] for each in specs]
    ours, *plain = [each for group in groups for each in run_in_turns(group, runs, threads)]
    median = {name: statistics.median(times) for name, times in ours.seconds.items()}
    rate = ours.about['flops'] / median['run'] / 1e9
    report = dict(
        name=spec.case,
        precision=spec.precision,
        seconds=round(median['run'], 4),
        runs=runs,
        peak_memory_mb=round(ours.memory),
        threads=ours.about['threads'],
        peak_gflops=round(max(ours.peaks), 1),
        fraction=round(rate / max(ours.peaks), 4),
        tflop=round(ours.about['flops'] / 1e12, 4),
        device=spec.device,
    )
    for name in ours.about['beside']:
        report[f'seconds_{name}'] = round(median[name], 4)
        report[f'ratio_to_{name}'] = _ratio(ours.seconds['run'], ours.seconds[name])
    for each in plain:
        report['plain_seconds'] = round(statistics.median(each.seconds['run']), 4)
        report['speedup'] = _ratio(each.seconds['run'], ours.seconds['run'])
        report['plain_peak_memory_mb'] = round(each.memory)
    return report


def _ratio(above: list[float], below: list[float]) -> float:
    """Median of the ratios of neighbouring runs."""
    return round(statistics.median(a / b for a, b in zip(above, below)), 3)
