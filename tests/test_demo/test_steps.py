import dataclasses
import json
import re
import shutil

import pytest
import torch
from demo_fixture import tiny_settings
from mmengine.config import Config

from fiber_mm.demo.coarse import coarse_config, train_coarse
from fiber_mm.demo.settings import TARGETS, DemoSettings, StepRecord
from fiber_mm.demo.steps import check_same_training, run_demo, train, training_config
from fiber_mm.demo.training import keep_config
from fiber_mm.engine import ConfigError, load_checkpoint_file


def test_finished_steps_are_remembered(tmp_path):
    path = tmp_path / 'steps.json'
    StepRecord(path, fresh=True).finish('data', 1.23, {'root': 'x'})
    again = StepRecord(path, fresh=False)
    assert again.done('data')
    assert not again.done('train')
    assert again.seconds == {'data': 1.2}
    assert not StepRecord(path, fresh=True).done('data')
    path.write_text(path.read_text()[:10])
    with pytest.raises(ConfigError, match=r'steps\.json, which says .* is damaged'):
        StepRecord(path, fresh=False)


def test_a_training_of_another_length(tmp_path):
    cfg = training_config(DemoSettings(work_dir=tmp_path, steps=50))
    assert cfg.train_cfg.max_iters == 50
    assert cfg.param_scheduler[-1].end == 50


def test_another_training_is_no_resumption(tmp_path):
    settings = DemoSettings(work_dir=tmp_path, resume=True, steps=50)
    cfg = training_config(settings)
    check_same_training(settings, cfg)  # nothing was begun
    settings.model_config.write_text('train_cfg = dict(max_iters=20)')
    with pytest.raises(ConfigError, match='begun with 20 steps.*go on with 50: give --steps 20'):
        check_same_training(settings, cfg)
    words = tmp_path / 'words'
    words.mkdir()
    cfg.model.data_preprocessor.tokenizer = str(words)
    keep_config(cfg, settings, settings.model_config)
    check_same_training(settings, cfg)
    moved = tmp_path / 'moved'
    moved.mkdir()
    again = dataclasses.replace(settings, work_dir=moved)
    settings.model_config.rename(again.model_config)
    check_same_training(again, training_config(again))
    kept = Config.fromfile(again.model_config)
    assert kept.model.data_preprocessor.tokenizer == str(moved / 'tokenizer'), 'it moves along'
    other = dataclasses.replace(again, seed=7, cfg_options={'optim_wrapper.optimizer.lr': 0.5})
    with pytest.raises(
        ConfigError, match=r'optim_wrapper\.optimizer\.lr .* there, 0\.5 wanted; randomness\.seed 0'
    ):
        check_same_training(again, training_config(other))


def test_what_is_not_of_a_demo_is_left_alone(tmp_path):
    own = tmp_path / 'train'
    own.mkdir()
    (own / 'thesis.jpg').touch()
    with pytest.raises(ConfigError, match='holds train, which the demo would replace'):
        run_demo(DemoSettings(work_dir=tmp_path))
    assert (own / 'thesis.jpg').is_file()


@pytest.mark.parametrize('wrong', ['config', 'data'])
def test_a_finished_demo_outlives_one_that_cannot_begin(tmp_path, wrong):
    settings = tiny_settings(tmp_path)
    settings.work_dir.mkdir()
    left = [settings.record, settings.checkpoint, settings.report]
    for path in left:
        path.write_text('{}')
    if wrong == 'config':
        with pytest.raises(FileNotFoundError, match='tinny'):
            run_demo(dataclasses.replace(settings, config='tinny'))
    else:
        (tmp_path / 'shapes').mkdir()
        (tmp_path / 'shapes' / 'other').touch()
        with pytest.raises(FileExistsError, match='move or remove'):
            run_demo(settings)
    assert all(path.is_file() for path in left)


def test_the_config_gets_the_settings(tmp_path):
    settings = DemoSettings(work_dir=tmp_path, seed=7, cfg_options={'train_cfg.max_iters': 3})
    cfg = training_config(settings)
    assert cfg.randomness.seed == 7
    assert cfg.train_cfg.max_iters == 3
    assert cfg.work_dir == str(tmp_path / 'train')
    assert cfg.runner_type == 'FiberRunner'


def check_outcome(settings, metrics, *more_steps):
    """The numbers of all steps in their file, and a report that stands alone."""
    assert json.loads(settings.metrics.read_text()) == metrics
    for name in TARGETS:
        assert 0 <= metrics[name] <= 1
    steps = {'data', 'train', 'evaluate', 'report', 'total', *more_steps}
    assert set(metrics['seconds']) == steps
    assert metrics['training']['iterations'] == 2
    html = settings.report.read_text()
    assert not re.search(r'(src|href)="(?!data:)', html)
    assert html.count('<img') > 20


@pytest.mark.slow
def test_the_whole_way(finished):
    check_outcome(*finished, 'coarse', 'evaluate_coarse')


@pytest.mark.slow
def test_the_second_time_everything_but_the_report_is_there_already(finished, copied):
    again = run_demo(copied(resume=True, processes=None))
    assert again['all_scores'] == finished[1]['all_scores']
    assert again['coarse'] == finished[1]['coarse']
    assert again['seconds']['train'] == finished[1]['seconds']['train']


@pytest.mark.slow
def test_from_the_beginning_without_a_coarse_stage(copied):
    settings = copied(coarse_steps=0, processes=1)
    metrics = run_demo(settings)
    check_outcome(settings, metrics)
    assert 'coarse' not in metrics
    assert not settings.coarse_dir.exists()


@pytest.mark.slow
@pytest.mark.usefixtures('quick_launch')
def test_the_same_seed_gives_the_same_weights(finished, copied):
    settings = copied()
    fine = training_config(settings)
    train_coarse(coarse_config(settings, fine), fine, settings)
    # Killed before the fine stage's first checkpoint, it starts from the same weights again.
    shutil.rmtree(settings.train_dir)
    resumed = copied(resume=True)
    assert train(training_config(resumed), resumed)['seconds_per_step'] > 0
    for name in ('coarse_checkpoint', 'checkpoint'):
        first, again = (
            load_checkpoint_file(getattr(s, name))['state_dict'] for s in (finished[0], settings)
        )
        assert all(torch.equal(again[key], value) for key, value in first.items()), name
