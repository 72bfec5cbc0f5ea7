"""A run that is killed and resumed ends as one that was not."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
import torch

from fiber_mm.engine import CheckpointError, FiberCheckpointHook
from fiber_mm.engine.checkpoint import find_last_checkpoint

from . import toy_training as toy


class Killed(BaseException):
    """Stands for a kill inside this process."""


def train_and_stop(work_dir: Path, stop: int, monkeypatch, where: str = 'step', **kwargs) -> None:
    """Train up to a point, then leave by an exception that nothing catches."""
    if where == 'step':
        forward = toy.ToyModel.forward
        calls = []

        def counted(self, *args, mode='tensor', **kw):
            if mode == 'loss':
                calls.append(1)
                if len(calls) > stop:
                    raise Killed
            return forward(self, *args, mode=mode, **kw)

        monkeypatch.setattr(toy.ToyModel, 'forward', counted)
    else:
        compute = toy.ToyMetric.compute_metrics
        seen = []

        def stopped(self, results):
            seen.append(1)
            if len(seen) == stop:
                raise Killed
            return compute(self, results)

        monkeypatch.setattr(toy.ToyMetric, 'compute_metrics', stopped)
    with pytest.raises(Killed):
        toy.train(work_dir, **kwargs)
    monkeypatch.undo()


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize(
    'kind',
    [dict(), dict(by_epoch=True, interval=3), dict(aspect=True), dict(aspect=True, by_epoch=True)],
    ids=['iters', 'mid-epoch', 'aspect-iters', 'aspect-epochs'],
)
def test_resume_after_stop(tmp_path, monkeypatch, kind, workers):
    whole = toy.train(tmp_path / 'whole', num_workers=workers, **kind)
    train_and_stop(tmp_path / 'cut', 10, monkeypatch, num_workers=workers, **kind)
    assert 0 < toy.last_state(tmp_path / 'cut')['meta']['iter'] < whole.iter
    toy.train(tmp_path / 'cut', resume=True, num_workers=workers, **kind)
    toy.assert_same_training(toy.last_state(tmp_path / 'cut'), toy.last_state(tmp_path / 'whole'))


@pytest.mark.parametrize(
    ('kind', 'kept'),
    [
        (dict(), 6),  # due at 4, in the middle of an update
        (dict(by_epoch=True, save_by_epoch=True), 8),  # the fourth batch of an epoch is its own
        (dict(by_epoch=True, interval=5), 7),  # due after the first batch of the second epoch
    ],
    ids=['iters', 'epochs', 'mid-epoch'],
)
def test_resume_loses_no_accumulated_gradient(tmp_path, monkeypatch, kind, kept):
    """Three batches an update, which no epoch of four and no interval here is a multiple of."""
    kind = dict(kind, accumulate=3, max_iters=16)
    toy.train(tmp_path / 'whole', **kind)
    train_and_stop(tmp_path / 'cut', kept + 1, monkeypatch, **kind)
    assert toy.last_state(tmp_path / 'cut')['meta']['iter'] == kept
    toy.train(tmp_path / 'cut', resume=True, **kind)
    toy.assert_same_training(toy.last_state(tmp_path / 'cut'), toy.last_state(tmp_path / 'whole'))


def test_an_epoch_ends_with_an_update(tmp_path):
    """Two epochs of three batches and one: the one is not carried into the next epoch."""
    toy.train(tmp_path, accumulate=3, by_epoch=True, max_iters=8)
    for state in toy.last_state(tmp_path)['optimizer']['state'].values():
        assert state['step'] == 4


def test_epochs_may_have_other_lengths_after_a_resume(tmp_path, monkeypatch):
    """As with other GPUs: the next epoch begins at its beginning, and none is passed over."""
    kind = dict(by_epoch=True, save_by_epoch=True, max_iters=12)
    train_and_stop(tmp_path, 5, monkeypatch, **kind)
    trace = tmp_path / 'trace.txt'
    runner = toy.train(tmp_path, resume=True, batch_size=6, trace=str(trace), **kind)
    seen = [json.loads(line.split(' ', 1)[1]) for line in trace.read_text().splitlines()]
    assert [len(indices) for indices in seen] == [6] * 4, 'two epochs of two batches'
    assert sorted(seen[0] + seen[1]) == sorted(seen[2] + seen[3]) == list(range(12))
    assert (runner.epoch, runner.iter) == (3, 8)
    assert runner.max_iters == 8
    (log,) = [p.read_text() for p in tmp_path.glob('*/*.log') if 'training ends' in p.read_text()]
    assert 'epochs have 2 batches now, so training ends after 8 iterations; LinearLR' in log


def test_another_batch_goes_on_with_the_next_samples(tmp_path, monkeypatch):
    train_and_stop(tmp_path, 4, monkeypatch, max_iters=8)
    whole = tmp_path / 'whole.txt'
    toy.train(tmp_path / 'whole', max_iters=8, trace=str(whole))
    trace = tmp_path / 'trace.txt'
    toy.train(tmp_path, resume=True, batch_size=6, trace=str(trace), max_iters=6)
    first, seen = (
        [i for line in path.read_text().splitlines() for i in json.loads(line.split(' ', 1)[1])]
        for path in (whole, trace)
    )
    assert seen == first[12:24], 'four batches of 3 were seen before'


def test_a_best_checkpoint_between_two_updates_is_none_to_resume_from(tmp_path):
    kind = dict(accumulate=2, validate=True, interval=4, max_iters=6)
    cfg = toy.config(tmp_path, **kind)
    cfg.default_hooks.checkpoint.update(save_best='toy/error', rule='less', max_keep_ckpts=9)
    cfg.train_cfg.val_interval = 3
    cfg.experiment_name = 'toy_best_between'
    toy.FiberRunner.from_cfg(cfg).train()
    assert list(tmp_path.glob('best_*iter_3.pth')), 'the best weights themselves'
    assert not (tmp_path / 'iter_3.pth').exists()
    assert (tmp_path / 'iter_4.pth').is_file()


@pytest.mark.parametrize('batch_size', [2, 6])
def test_an_interrupted_epoch_keeps_its_length(tmp_path, monkeypatch, batch_size):
    kind = dict(by_epoch=True, interval=3)
    train_and_stop(tmp_path, 4, monkeypatch, **kind)
    with pytest.raises(CheckpointError, match=rf'had 4 batches, now it has {12 // batch_size}'):
        toy.train(tmp_path, resume=True, batch_size=batch_size, **kind)


def test_skipping_batches_and_accumulating_exclude_each_other(tmp_path):
    cfg = toy.config(tmp_path, accumulate=2)
    cfg.train_cfg.max_empty = 0.1
    cfg.experiment_name = 'toy_skip'
    with pytest.raises(ValueError, match=r'max_empty=0\.1 .*accumulative_counts=2'):
        toy.FiberRunner.from_cfg(cfg).train()


def test_number_of_workers_changes_nothing(tmp_path):
    for workers in (0, 2):
        toy.train(tmp_path / str(workers), num_workers=workers, max_iters=8)
    toy.assert_same_training(toy.last_state(tmp_path / '0'), toy.last_state(tmp_path / '2'))


def test_same_seed_same_numbers_other_seed_others(tmp_path):
    traces = []
    for name, seed in (('a', 3), ('b', 3), ('c', 4)):
        trace = tmp_path / f'{name}.txt'
        toy.train(tmp_path / name, seed=seed, trace=str(trace), max_iters=8)
        traces.append(trace.read_text())
    assert traces[0] == traces[1] != traces[2]


def test_epochs_differ_in_order_and_noise(tmp_path):
    """Reseeding per sample must not repeat the augmentation of the epoch before."""
    trace = tmp_path / 'trace.txt'
    runner = toy.train(tmp_path / 'run', by_epoch=True, trace=str(trace), max_iters=8)
    lines = [line.split(' ', 1)[1] for line in trace.read_text().splitlines()]
    first, second = lines[:4], lines[4:]
    assert first != second
    assert sorted(i for line in first for i in json.loads(line)) == list(range(12))
    dataset, sampler = runner.train_dataloader.dataset, runner.train_dataloader.sampler
    draws = []
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        draws.append({int(index): dataset[index]['inputs'][1:] for index in sampler})
    assert all(not torch.equal(draws[0][i], draws[1][i]) for i in range(12))


def test_resume_without_a_seed_in_the_config(tmp_path, monkeypatch):
    """The seed that was drawn is in the checkpoint; order and noise must follow it."""
    monkeypatch.setattr('mmengine.runner.utils.sync_random_seed', lambda: 77)
    toy.train(tmp_path / 'whole', seed=None)
    train_and_stop(tmp_path / 'cut', 10, pytest.MonkeyPatch(), seed=None)
    monkeypatch.setattr('mmengine.runner.utils.sync_random_seed', lambda: 78)
    toy.train(tmp_path / 'cut', seed=None, resume=True)
    toy.assert_same_training(toy.last_state(tmp_path / 'cut'), toy.last_state(tmp_path / 'whole'))


@pytest.mark.parametrize('by_epoch', [False, True])
def test_interrupted_validation_is_done_after_resume(tmp_path, monkeypatch, by_epoch):
    """The plateau schedule reads what validation says, so a lost one would change the weights."""
    kind = dict(validate=True, by_epoch=by_epoch, save_by_epoch=by_epoch, save_best=True)
    compute, scores = toy.ToyMetric.compute_metrics, []

    def noted(self, results):
        metrics = compute(self, results)
        scores.append(metrics['error'])
        return metrics

    monkeypatch.setattr(toy.ToyMetric, 'compute_metrics', noted)
    toy.train(tmp_path / 'whole', **kind)
    wanted = scores.copy()
    scores.clear()
    with pytest.MonkeyPatch.context() as inner:
        train_and_stop(tmp_path / 'cut', 3, inner, where='validation', **kind)
    assert scores == wanted[:2]
    toy.train(tmp_path / 'cut', resume=True, **kind)
    assert scores == wanted
    cut, whole = (toy.last_state(tmp_path / name) for name in ('cut', 'whole'))
    toy.assert_same_training(cut, whole)
    best = 'best_score'
    assert cut['message_hub']['runtime_info'][best] == whole['message_hub']['runtime_info'][best]


def test_finished_validation_is_not_repeated(tmp_path, monkeypatch):
    """A checkpoint that was written again for a new best score knows that validation is over."""
    kind = dict(validate=True, by_epoch=True, save_by_epoch=True, save_best=True)
    train_and_stop(tmp_path, 4, monkeypatch, **kind)
    assert toy.last_state(tmp_path)['message_hub']['runtime_info']['validated_iter'] == 4
    compute, seen = toy.ToyMetric.compute_metrics, []
    monkeypatch.setattr(
        toy.ToyMetric, 'compute_metrics', lambda *args: seen.append(1) or compute(*args)
    )
    toy.train(tmp_path, resume=True, **kind)
    assert len(seen) == 4


def test_early_stopping_keeps_counting(tmp_path, monkeypatch):
    """Three validations without improvement stop the run, a resume among them or not."""
    monkeypatch.setattr(toy.ToyMetric, 'compute_metrics', lambda *_: dict(error=1.0))

    def run(name, **kwargs):
        cfg = toy.config(tmp_path / name, validate=True, **kwargs)
        stopping = dict(type='FiberEarlyStoppingHook', monitor='toy/error', rule='less',
                        patience=3, min_delta=0.1)  # fmt: skip
        cfg.custom_hooks.append(stopping)
        cfg.experiment_name = f'{name}_{kwargs}'
        runner = toy.FiberRunner.from_cfg(cfg)
        runner.train()
        return runner

    assert run('whole', max_iters=40).iter == 16
    train = toy.ToyModel.train_step
    steps = []

    def killed_at_step_10(self, *args, **kwargs):
        steps.append(1)
        if len(steps) == 10:
            raise Killed
        return train(self, *args, **kwargs)

    monkeypatch.setattr(toy.ToyModel, 'train_step', killed_at_step_10)
    with pytest.raises(Killed):
        run('cut', max_iters=40)
    assert run('cut', max_iters=40, resume=True).iter == 16


def test_resume_auto_starts_anew_without_checkpoint(tmp_path):
    assert toy.train(tmp_path, resume=True, max_iters=4).iter == 4


def test_resume_finds_a_moved_folder(tmp_path):
    toy.train(tmp_path / 'old', max_iters=4)
    (tmp_path / 'old').rename(tmp_path / 'new')
    assert find_last_checkpoint(tmp_path / 'new') == str(tmp_path / 'new' / 'iter_4.pth')


def test_resume_from_a_vanished_checkpoint_says_so(tmp_path):
    toy.train(tmp_path, max_iters=4)
    (tmp_path / 'iter_4.pth').unlink()
    with pytest.raises(CheckpointError, match=r'iter_4\.pth.*does not exist'):
        toy.train(tmp_path, resume=True, max_iters=4)


def test_old_checkpoint_goes_only_after_the_new_one_is_there(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise Killed

    kept = []
    save = toy.FiberRunner.save_checkpoint

    def second_fails(self, *args, **kwargs):
        if kept:
            refuse()
        kept.append(1)
        save(self, *args, **kwargs)

    monkeypatch.setattr(toy.FiberRunner, 'save_checkpoint', second_fails)
    with pytest.raises(Killed):
        toy.train(tmp_path)
    assert toy.last_state(tmp_path)['meta']['iter'] == 4
    monkeypatch.undo()
    toy.train(tmp_path, resume=True)
    assert [p.name for p in tmp_path.glob('*.pth')] == ['iter_20.pth'], 'max_keep_ckpts=1'


def test_best_checkpoint_survives_a_kill_while_the_better_one_is_written(tmp_path, monkeypatch):
    saves = []
    save = toy.FiberRunner.save_checkpoint

    def fail_at_second_best(self, out_dir, filename, *args, **kwargs):
        saves.extend([1] * filename.startswith('best'))
        if len(saves) == 2:
            raise Killed
        save(self, out_dir, filename, *args, **kwargs)

    scores = iter([3.0, 2.0])
    monkeypatch.setattr(toy.ToyMetric, 'compute_metrics', lambda *_: dict(error=next(scores)))
    monkeypatch.setattr(toy.FiberRunner, 'save_checkpoint', fail_at_second_best)
    with pytest.raises(Killed):
        toy.train(tmp_path, validate=True, save_best=True)
    assert [p.name for p in tmp_path.glob('best*')] == ['best_toy_error_iter_4.pth']


def test_hook_is_atomic_in_any_runner():
    assert FiberCheckpointHook().backend_args == dict(backend='fiber_atomic')
    other = FiberCheckpointHook(backend_args=dict(backend='petrel'))
    assert other.backend_args == dict(backend='petrel')


# -- a real kill, in a process of its own ----------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize('workers', [0, 2])
def test_kill_while_a_checkpoint_is_being_written(tmp_path, workers):
    toy.train(tmp_path / 'whole', num_workers=workers)
    cut = tmp_path / 'cut'
    run = toy.start(cut, num_workers=workers, slow_write=1.0)
    second = cut / '.iter_8.pth.tmp'
    toy.kill_when(run, lambda: second.is_file() and second.stat().st_size > 0)
    assert second.is_file(), 'the kill was meant to hit the writing'
    assert not (cut / 'iter_8.pth').exists()
    assert toy.last_state(cut)['meta']['iter'] == 4
    toy.train(cut, num_workers=workers, resume=True)
    assert not second.exists(), 'what the kill left is cleared'
    toy.assert_same_training(toy.last_state(cut), toy.last_state(tmp_path / 'whole'))


@pytest.mark.slow
@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('step', [5, 7, 11])
def test_kill_between_checkpoints(tmp_path, workers, step):
    kind = dict(num_workers=workers, by_epoch=step == 11, interval=3)
    toy.train(tmp_path / 'whole', **kind)
    cut, trace = tmp_path / 'cut', tmp_path / 'trace.txt'
    run = toy.start(cut, delay=0.01, trace=str(trace), **kind)
    toy.kill_when(run, lambda: trace.is_file() and len(trace.read_text().splitlines()) > step)
    toy.train(cut, resume=True, **kind)
    toy.assert_same_training(toy.last_state(cut), toy.last_state(tmp_path / 'whole'))


@pytest.mark.slow
def test_two_processes_train_like_one(tmp_path):
    """DDP with gloo: the same samples per step, so the same losses."""
    kind = dict(dropout=0.0, max_iters=8)
    toy.train(tmp_path / 'one', batch_size=6, **kind)
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    env = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), WORLD_SIZE='2')
    ranks = [
        toy.start(
            tmp_path / 'two',
            env=dict(env, RANK=str(rank), LOCAL_RANK=str(rank), CUDA_VISIBLE_DEVICES=''),
            launcher='pytorch',
            batch_size=3,
            **kind,
        )
        for rank in range(2)
    ]
    for process in ranks:
        process.join(300)
        assert process.exitcode == 0, (tmp_path / 'two.error').read_text()
    one, two = (toy.last_state(tmp_path / name)['state_dict'] for name in ('one', 'two'))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-5, atol=1e-6)
