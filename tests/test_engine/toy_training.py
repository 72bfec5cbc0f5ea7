"""A toy training run that draws random numbers wherever a real one does.

The data set augments with ``random``, NumPy and torch, the model has dropout, the schedule has a
warm-up, an EMA and a plateau. :func:`start` runs it in a process of its own, to be killed.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import quick_runs
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from torch import nn

from fiber_mm.engine import FiberRunner, checkpoint
from fiber_mm.registry import DATASETS, METRICS, MODELS


@DATASETS.register_module()
class ToyDataset(torch.utils.data.Dataset):
    """Points of a random line with random noise."""

    metainfo = dict(name='toy')

    def __init__(self, size: int = 12, delay: float = 0.0) -> None:
        self.size = size
        self.delay = delay

    def get_data_info(self, index: int) -> dict:
        return dict(height=10 if index % 3 else 20, width=15, sample_idx=index)

    def __getitem__(self, index: int) -> dict:
        time.sleep(self.delay)
        noise = [random.random(), float(np.random.rand()), float(torch.rand(()))]  # noqa: NPY002
        return dict(inputs=torch.tensor([float(index), *noise]), index=index)

    def __len__(self) -> int:
        return self.size


@MODELS.register_module()
class ToyModel(BaseModel):
    """Dropout and one linear layer; writes a line per step to ``trace``."""

    def __init__(self, dropout: float = 0.3, trace: str | None = None) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 1)
        self.dropout = nn.Dropout(dropout)
        self.trace = trace

    def forward(self, inputs, index=None, mode: str = 'tensor'):
        x = torch.stack(list(inputs)) if isinstance(inputs, list | tuple) else inputs
        x = x / torch.tensor([10.0, 1, 1, 1], device=x.device)
        if mode == 'loss':
            loss = (self.linear(self.dropout(x)).squeeze(-1) - x.sum(-1)).square().mean()
            if self.trace:
                with open(self.trace, 'a') as file:
                    file.write(f'{float(loss):.9e} {[int(i) for i in index]}\n')
            return dict(loss=loss)
        return list(self.linear(x))


@METRICS.register_module()
class ToyMetric(BaseMetric):
    """Draws from the global generators, as a careless metric may."""

    default_prefix = 'toy'

    def process(self, data_batch, data_samples) -> None:
        self.results += [float(sample) for sample in data_samples]

    def compute_metrics(self, results) -> dict:
        torch.rand(3)
        return dict(error=float(np.mean(results)))


def config(
    work_dir: str | Path,
    by_epoch: bool = False,
    num_workers: int = 0,
    max_iters: int = 20,
    interval: int = 4,
    validate: bool = False,
    dropout: float = 0.3,
    batch_size: int = 3,
    delay: float = 0.0,
    resume: bool = False,
    seed: int | None = 3,
    save_best: bool = False,
    trace: str | None = None,
    aspect: bool = False,
    launcher: str = 'none',
    save_by_epoch: bool = False,
    accumulate: int = 1,
) -> Config:
    """A config of the toy run; epochs have four iterations."""
    loader = dict(
        batch_size=batch_size,
        num_workers=num_workers,
        dataset=dict(type='ToyDataset', delay=delay),
        sampler=dict(type='FiberEpochSampler' if by_epoch else 'FiberInfiniteSampler'),
    )
    if aspect:
        loader['batch_sampler'] = dict(type='FiberAspectRatioBatchSampler')
    loop = (
        dict(type='FiberEpochTrainLoop', max_epochs=max_iters // 4, val_interval=1)
        if by_epoch
        else dict(type='FiberIterTrainLoop', max_iters=max_iters, val_interval=interval)
    )
    schedule = [
        dict(type='LinearLR', start_factor=0.001, by_epoch=False, end=3),
        dict(type='MultiStepParamScheduler', param_name='weight_decay', milestones=[6], gamma=0.1,
             by_epoch=False),
    ]  # fmt: skip
    if validate and by_epoch:
        schedule.append(
            dict(type='ReduceOnPlateauLR', monitor='toy/error', rule='greater', patience=0)
        )
    cfg = dict(
        runner_type='FiberRunner',
        default_scope='mmengine',
        model=dict(type='ToyModel', dropout=dropout, trace=trace),
        train_dataloader=loader,
        train_cfg=loop,
        optim_wrapper=dict(
            constructor='FiberOptimWrapperConstructor',
            accumulative_counts=accumulate,
            optimizer=dict(type='AdamW', lr=0.05, weight_decay=0.05),
            paramwise_cfg=dict(rules=[dict(contains='bias', lr_mult=2.0, decay_mult=0.0)]),
            clip_grad=dict(max_norm=1.0),
        ),
        param_scheduler=schedule,
        default_hooks=dict(
            checkpoint=dict(
                type='FiberCheckpointHook', interval=1 if save_by_epoch else interval,
                by_epoch=save_by_epoch, max_keep_ckpts=1,
                **(dict(save_best='toy/error', rule='less') if save_best else {}),
            ),
            logger=dict(type='LoggerHook', interval=1),
        ),
        custom_hooks=[dict(type='EMAHook', momentum=0.1)],
        randomness=dict(seed=seed),
        env_cfg=dict(dist_cfg=dict(backend='gloo')),
        log_level='WARNING',
        work_dir=str(work_dir),
        resume=resume,
        launcher=launcher,
    )  # fmt: skip
    if validate:
        cfg.update(
            val_dataloader=dict(
                batch_size=4,
                dataset=dict(type='ToyDataset', size=8),
                sampler=dict(type='DefaultSampler', shuffle=False),
            ),
            val_cfg=dict(),
            val_evaluator=dict(type='ToyMetric'),
        )
    return Config(cfg)


_runs = 0


def train(work_dir: str | Path, **kwargs) -> FiberRunner:
    """Train the toy in this process."""
    global _runs
    _runs += 1
    cfg = config(work_dir, **kwargs)
    # mmengine keeps loggers and message hubs by name, which two runs of one second would share.
    cfg.experiment_name = f'toy_{os.getpid()}_{_runs}'
    runner = FiberRunner.from_cfg(cfg)
    runner.train()
    return runner


def last_state(work_dir: str | Path) -> dict:
    """The last checkpoint's content."""
    return checkpoint.load_checkpoint_file(checkpoint.find_last_checkpoint(work_dir))


def assert_same_training(got: dict, wanted: dict) -> None:
    """Weights, EMA, optimiser and schedules of two checkpoints are equal, bit for bit."""
    for part in ('state_dict', 'ema_state_dict'):
        assert got[part].keys() == wanted[part].keys()
        for key, value in wanted[part].items():
            assert torch.equal(got[part][key], value), f'{part} {key}'
    assert got['meta']['iter'] == wanted['meta']['iter']
    for index, state in wanted['optimizer']['state'].items():
        for key, value in state.items():
            assert torch.equal(got['optimizer']['state'][index][key], value), f'{index} {key}'
    assert got['optimizer']['param_groups'] == wanted['optimizer']['param_groups']


def slow_down_writing(seconds: float) -> None:
    """Make the writing of a checkpoint take long, in small pieces, so that a kill hits it."""
    plain_open = open

    def slow_open(path, mode='r', *args, **kwargs):
        file = plain_open(path, mode, *args, **kwargs)
        if 'w' not in mode or '.pth' not in str(path):
            return file
        write = file.write

        class Slow:
            def __enter__(self):
                return self

            def __exit__(self, *error):
                file.close()

            def __getattr__(self, name):
                return getattr(file, name)

            def write(self, data):
                for start in range(0, len(data), -(-len(data) // 10)):
                    write(data[start : start + -(-len(data) // 10)])
                    file.flush()
                    time.sleep(seconds / 10)

        return Slow()

    checkpoint.open = slow_open


def start(work_dir: str | Path, env: dict | None = None, **kwargs) -> BaseProcess:
    """Train the toy in a process group of its own.

    Args:
        work_dir: the run's folder.
        env: environment variables of the process, for distributed runs.
        **kwargs: those of :func:`config`, and ``slow_write``, the seconds that each checkpoint
            takes to be written.
    """
    return in_a_process(_train_in_child, str(work_dir), env or {}, kwargs)


def in_a_process(function: Callable, *args) -> BaseProcess:
    """Call a function of a module in a process group of its own."""
    process = quick_runs.server().Process(target=_lead_group, args=(function, args))
    process.start()
    return process


def _lead_group(function: Callable, args: tuple) -> None:
    os.setsid()
    torch.set_num_threads(1)
    function(*args)


def _train_in_child(work_dir: str, env: dict, kwargs: dict) -> None:
    os.environ.update(env)
    slow_down_writing(kwargs.pop('slow_write', 0.0))
    try:
        train(work_dir, **kwargs)
    except Exception:  # noqa: BLE001  (the parent reports it)
        Path(f'{work_dir}.error').write_text(traceback.format_exc())
        sys.exit(1)


def kill_when(process: BaseProcess, condition: Callable[[], bool], seconds: float = 300) -> None:
    """``kill -9`` a process and its workers as soon as something is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.is_alive(), 'the run ended before it could be killed'
        assert time.monotonic() < deadline, 'the moment to kill the run never came'
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.join()
