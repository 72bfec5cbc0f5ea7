"""The allocator setting."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from fiber_mm.engine import cpu

# In a process of its own: the setting cannot be taken back.
FAULTS = """
import resource, sys, torch
if sys.argv[1] == 'tuned':
    import importlib.util
    spec = importlib.util.spec_from_file_location('cpu', sys.argv[2])
    cpu = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cpu)
    assert cpu.tune_cpu_allocator()
torch.set_num_threads(1)
x = torch.zeros(16 << 20)
for step in range(12):
    if step == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    y = (x + 1) * 2
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='only glibc has the setting')
def test_freed_activations_are_not_faulted_in_again():
    plain, tuned = (
        int(subprocess.check_output([sys.executable, '-c', FAULTS, name, cpu.__file__]))
        for name in ('plain', 'tuned')
    )
    assert plain > 100_000, 'ten steps with two blocks of 64 MiB'
    assert tuned < plain / 10


def test_harmless_elsewhere(monkeypatch):
    monkeypatch.setattr(cpu.platform, 'system', lambda: 'Darwin')
    assert not cpu.tune_cpu_allocator()
    monkeypatch.undo()
    monkeypatch.setattr(cpu.platform, 'libc_ver', lambda: ('', ''))
    assert not cpu.tune_cpu_allocator()
