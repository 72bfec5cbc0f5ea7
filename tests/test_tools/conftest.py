"""What a command line sets for its whole process does not outlive its test."""

import os
from unittest import mock

import pytest


@pytest.fixture(autouse=True, scope='package')
def _untuned():
    """The setting of the allocator cannot be taken back."""
    with mock.patch('fiber_mm.engine.tune_cpu_allocator', return_value=False):
        yield


@pytest.fixture(autouse=True)
def _no_launcher():
    with mock.patch.dict(os.environ):
        os.environ.pop('LOCAL_RANK', None)
        yield
