"""Fixtures of the parity tests, and the summary of what they measured."""

from __future__ import annotations

import pytest

from .kit import FOLDER, Models

RESULTS: list[tuple[str, str, float, int]] = []
UNCOVERED: list[tuple[str, str]] = []


@pytest.fixture(scope='session')
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Models with synthetic weights, one at a time."""
    return Models(tmp_path_factory.mktemp('parity'))


def pytest_terminal_summary(terminalreporter) -> None:
    """How near every golden came to its bounds, and which have no case."""
    if not (RESULTS or UNCOVERED):
        return
    terminalreporter.section(f'parity with {FOLDER}')
    for name, worst, ratio, rows in RESULTS:
        terminalreporter.write_line(
            f'{name}: {rows} values, nearest to its bound: {worst} at {ratio:.0%}'
        )
    for name, reason in UNCOVERED:
        terminalreporter.write_line(f'NOT COVERED: {name}: {reason}')
