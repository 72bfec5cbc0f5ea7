"""One demo for all tests that look at what it leaves."""

import dataclasses
import shutil

import pytest
import quick_runs
from demo_fixture import tiny_settings

from fiber_mm.demo.steps import run_demo


@pytest.fixture(scope='session')
def finished(tmp_path_factory, nothing_global):
    """Settings and numbers of a finished demo, from coarse to fine, of two processes."""
    settings = tiny_settings(tmp_path_factory.mktemp('finished'), processes=2, coarse_steps=2)
    with nothing_global(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(quick_runs.launching, 'LaunchConfig', quick_runs.launch_config)
        return settings, run_demo(settings)


@pytest.fixture
def copied(finished, tmp_path):
    """Makes settings of a copy of that demo, which may be changed."""
    folder = shutil.copytree(finished[0].work_dir, tmp_path / 'demo')
    return lambda **changes: dataclasses.replace(finished[0], work_dir=folder, **changes)
