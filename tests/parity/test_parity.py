"""Every golden of the folder in ``FIBER_PARITY`` (default: ``data/``) against our models."""

from __future__ import annotations

import pytest

from . import conftest
from .bounds import Comparison
from .cases import BF16, CASES
from .kit import FOLDER, NOT_COVERED, Golden, Models, cheapest_order, goldens

GOLDENS = goldens()


def run(models: Models, golden: Golden, bf16: bool) -> None:
    name = golden.name + (' (bf16)' if bf16 else '')
    comparison = Comparison(name, bf16)
    try:
        CASES[golden.kind](models, golden, comparison)
    finally:
        if comparison.rows:
            conftest.RESULTS.append((name, *comparison.worst, len(comparison.rows)))
    comparison.finish()


def test_folder_has_goldens():
    assert GOLDENS, f'no golden_*.npz in {FOLDER}; is FIBER_PARITY right?'


CASE_LIST = sorted(
    [
        (golden, bf16)
        for golden in GOLDENS
        for bf16 in (False, True)
        if not bf16 or golden.kind in BF16
    ],
    key=lambda case: cheapest_order(*case),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('golden', 'bf16'), CASE_LIST, ids=[f'{g.name}-{"bf16" if b else "fp32"}' for g, b in CASE_LIST]
)
def test_golden(golden: Golden, bf16: bool, models: Models):
    if golden.kind not in CASES:
        reason = NOT_COVERED.get(golden.kind, f'unknown kind {golden.kind!r}, no case for it')
        conftest.UNCOVERED.append((golden.name, reason))
        pytest.skip(f'not covered: {golden.name}: {reason}')
    run(models, golden, bf16)
