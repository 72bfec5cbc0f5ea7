"""What the loops add: skipped batches, and refusing what cannot work."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from fiber_mm.engine import CheckpointError, FiberSeededDataset
from fiber_mm.engine.loops import _mostly_empty

from . import toy_training as toy


def batch(*counts: int) -> dict:
    return dict(data_samples=[SimpleNamespace(gt_instances=[0] * n) for n in counts])


def test_mostly_empty_is_more_than_the_share_or_all():
    assert not _mostly_empty(batch(1, 2), 0.1)
    assert _mostly_empty(batch(1, 0), 0.1)
    assert not _mostly_empty(batch(*[1] * 9, 0), 0.1), 'exactly 10 % still trains'
    assert not _mostly_empty(batch(1, 0), 0.5)
    assert _mostly_empty(batch(0), 0.9), 'all empty'


def test_empty_batch_counts_but_steps_nothing(tmp_path, monkeypatch):
    """Weights, EMA and schedules are those of before; the iteration is not."""
    skipped = (2, 4)
    calls = []

    def empty_at(data_batch, share):
        calls.append(share)
        return len(calls) - 1 in skipped

    monkeypatch.setattr('fiber_mm.engine.loops._mostly_empty', empty_at)
    cfg = toy.config(tmp_path, max_iters=8)
    cfg.train_cfg.max_empty = 0.1
    runner = toy.FiberRunner.from_cfg(cfg)
    runner.train()
    assert calls == [0.1] * 8
    assert runner.iter == 8
    state = toy.last_state(tmp_path)
    assert state['meta']['iter'] == 8
    steps = {int(s['step']) for s in state['optimizer']['state'].values()}
    assert steps == {6}
    assert int(state['ema_state_dict']['steps']) == 6
    # A schedule takes its first step when it is built.
    assert state['param_schedulers'][1]['last_step'] == 6


def test_ranks_begin_at_one_place(tmp_path, monkeypatch):
    gathered = [torch.tensor(4), torch.tensor(0)]
    monkeypatch.setattr('fiber_mm.engine.loops.all_gather', lambda place: gathered)
    for by_epoch in (False, True):
        cfg = toy.config(tmp_path, by_epoch=by_epoch)
        cfg.experiment_name = f'toy_places_{by_epoch}'
        with pytest.raises(CheckpointError, match=r'iterations \[0, 4\].* that all nodes share'):
            toy.FiberRunner.from_cfg(cfg).train()


def test_many_steps_without_an_update_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr('fiber_mm.engine.loops._mostly_empty', lambda *_: True)
    cfg = toy.config(tmp_path, max_iters=130)
    cfg.train_cfg.max_empty = 0.1
    cfg.experiment_name = 'toy_all_empty'
    toy.FiberRunner.from_cfg(cfg).train()
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert log.count('iterations had too few images with boxes') == 1
    assert 'set max_empty=None' in log


def test_max_empty_is_a_share(tmp_path):
    cfg = toy.config(tmp_path)
    cfg.train_cfg.max_empty = 10
    with pytest.raises(ValueError, match=r'max_empty must be in \[0, 1\)'):
        toy.FiberRunner.from_cfg(cfg).train()


def test_epochs_need_a_sampler_that_ends(tmp_path):
    cfg = toy.config(tmp_path, by_epoch=True)
    cfg.train_dataloader.sampler.type = 'FiberInfiniteSampler'
    with pytest.raises(ValueError, match='FiberEpochSampler'):
        toy.FiberRunner.from_cfg(cfg).train()


def test_runner_wraps_datasets_behind_our_samplers_only(tmp_path):
    cfg = toy.config(tmp_path, validate=True)
    runner = toy.FiberRunner.from_cfg(cfg)
    train = runner.build_dataloader(cfg.train_dataloader, seed=1)
    val = runner.build_dataloader(cfg.val_dataloader, seed=1)
    assert isinstance(train.dataset, FiberSeededDataset)
    assert isinstance(val.dataset, toy.ToyDataset)
    assert cfg.train_dataloader.dataset.type == 'ToyDataset', 'the config stays as written'


def test_weight_decay_schedule_and_ema_are_mmengines_by_config(tmp_path):
    """MultiStepParamScheduler drops the decay; EMA .999 of the original is momentum .001."""
    runner = toy.train(tmp_path, max_iters=8)
    decays = {group['weight_decay'] for group in runner.optim_wrapper.param_groups}
    assert {round(decay, 6) for decay in decays} == {0.0, 0.005}
    ema = next(hook for hook in runner.hooks if hasattr(hook, 'ema_model')).ema_model
    averaged, value = torch.zeros(1), torch.ones(1)
    ema.avg_func(averaged, value, steps=1)
    assert averaged.item() == pytest.approx(0.1), 'momentum is the share of the new value'


def test_curves_are_logged_as_json_lines(tmp_path):
    cfg = toy.config(tmp_path, max_iters=4)
    cfg.visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
    toy.FiberRunner.from_cfg(cfg).train()
    (scalars,) = tmp_path.glob('*/vis_data/scalars.json')
    lines = scalars.read_text().splitlines()
    assert len(lines) == 4
    assert all('"loss"' in line and '"lr"' in line for line in lines)
