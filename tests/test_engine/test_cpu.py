"""The allocator setting."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from fiber_mm.engine import cpu

# In a process of its own: the setting cannot be taken back.
FAULTS = """
import ctypes, importlib.util, resource, sys
if sys.argv[1] == 'tuned':
    spec = importlib.util.spec_from_file_location('cpu', sys.argv[2])
    cpu = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cpu)
    assert cpu.tune_cpu_allocator()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for step in range(10):
    block = ctypes.c_void_p(libc.malloc(64 << 20))
    libc.memset(block, step, ctypes.c_size_t(64 << 20))
    libc.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

HUGE_PAGES = """
import importlib.util, os, sys
spec = importlib.util.spec_from_file_location('cpu', sys.argv[1])
cpu = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cpu)
assert cpu.tune_cpu_allocator()
print(os.environ['THP_MEM_ALLOC_ENABLE'])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='only glibc has the setting')
def test_a_freed_block_is_not_faulted_in_again():
    plain, tuned = (
        int(subprocess.check_output([sys.executable, '-c', FAULTS, name, cpu.__file__]))
        for name in ('plain', 'tuned')
    )
    assert tuned < plain / 5, 'ten times the same 64 MiB'


def test_harmless_elsewhere(monkeypatch):
    monkeypatch.setattr(cpu.platform, 'system', lambda: 'Darwin')
    assert not cpu.tune_cpu_allocator()
    monkeypatch.undo()
    monkeypatch.setattr(cpu.platform, 'libc_ver', lambda: ('', ''))
    assert not cpu.tune_cpu_allocator()


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='only glibc has the setting')
@pytest.mark.parametrize('before', [None, '0'])
def test_huge_pages_are_asked_for_unless_something_else_is_set(before):
    env = {k: v for k, v in os.environ.items() if k != 'THP_MEM_ALLOC_ENABLE'}
    if before is not None:
        env['THP_MEM_ALLOC_ENABLE'] = before
    out = subprocess.check_output(
        [sys.executable, '-c', HUGE_PAGES, cpu.__file__], env=env, text=True
    )
    assert out.strip() == (before or '1')
