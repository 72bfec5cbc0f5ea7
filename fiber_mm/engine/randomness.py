"""Random numbers that depend on where training stands, not on how it got there.

Each sample and each step gets its own seed, hashed from the run's seed and its place in training.
No state needs saving, so a resumed run, and a run with another number of workers, draw the same
numbers as an uninterrupted one.
"""

# The host stack's transforms draw from NumPy's global generator, so that is the one to seed.
# ruff: noqa: NPY002

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def mix_seed(*parts: int) -> int:
    """Hash integers to a seed in [0, 2**63): neighbouring inputs give unrelated seeds."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, 'little') >> 1


def seed_everything(seed: int) -> None:
    """Seed ``random``, NumPy and torch on all devices."""
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.manual_seed(seed)


@contextmanager
def cpu_seeded(seed: int) -> Iterator[None]:
    """Seed the CPU generators inside, and put their states back on leaving."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.random.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
