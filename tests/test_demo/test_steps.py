import json
import re

import pytest
import torch
from demo_fixture import tiny_settings

from fiber_mm.demo.settings import TARGETS, DemoSettings, StepRecord
from fiber_mm.demo.steps import run_demo, training_config
from fiber_mm.engine import load_checkpoint_file


def test_finished_steps_are_remembered(tmp_path):
    path = tmp_path / 'steps.json'
    StepRecord(path, fresh=True).finish('data', 1.23, {'root': 'x'})
    again = StepRecord(path, fresh=False)
    assert again.done('data')
    assert not again.done('train')
    assert again.seconds == {'data': 1.2}
    assert not StepRecord(path, fresh=True).done('data')


def test_the_config_gets_the_settings(tmp_path):
    settings = DemoSettings(work_dir=tmp_path, seed=7, cfg_options={'train_cfg.max_iters': 3})
    cfg = training_config(settings)
    assert cfg.randomness.seed == 7
    assert cfg.train_cfg.max_iters == 3
    assert cfg.work_dir == str(tmp_path / 'train')
    assert cfg.runner_type == 'FiberRunner'


@pytest.fixture
def settings(tmp_path):
    return tiny_settings(tmp_path, processes=2)


@pytest.mark.slow
def test_the_whole_way(settings):
    metrics = run_demo(settings)
    assert json.loads(settings.metrics.read_text()) == metrics
    for name in TARGETS:
        assert 0 <= metrics[name] <= 1
    assert set(metrics['seconds']) == {'data', 'train', 'evaluate', 'report', 'total'}
    assert metrics['training']['iterations'] == 2
    assert 'coarse' not in metrics
    assert not settings.coarse_dir.exists()
    html = settings.report.read_text()
    assert not re.search(r'(src|href)="(?!data:)', html)
    assert html.count('<img') > 20

    # The second time everything but the report is there already, and the numbers are the same.
    weights = load_checkpoint_file(settings.checkpoint)['state_dict']
    again = run_demo(
        DemoSettings(settings.work_dir, settings.config, None, True, settings.cfg_options)
    )
    assert again['all_scores'] == metrics['all_scores']
    assert again['seconds']['train'] == metrics['seconds']['train']

    # From the beginning, with the same seed, training gives the same weights.
    run_demo(settings)
    repeated = load_checkpoint_file(settings.checkpoint)['state_dict']
    assert all(torch.equal(weights[name], repeated[name]) for name in weights)
