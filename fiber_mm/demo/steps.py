"""The steps of the demo; each reads files that the ones before it wrote."""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger

from fiber_mm.config_lookup import get_config_path
from fiber_mm.engine.checkpoint import find_last_checkpoint, load_checkpoint_file
from fiber_mm.engine.config import check_config
from fiber_mm.engine.launch import launch
from fiber_mm.registry import RUNNERS
from fiber_mm.shapes.generate import generate_shapes

from .evaluation import evaluate
from .processes import shared
from .report import write_report
from .settings import DemoSettings, StepRecord

#: Data where the config says nothing.
DATA = dict(splits=dict(train=4000, val=500), seed=0, image_size=256)


def run_demo(settings: DemoSettings) -> dict[str, Any]:
    """Make data, train, evaluate, draw.

    Args:
        settings: See :class:`DemoSettings`.

    Returns:
        The content of ``metrics.json``.
    """
    settings.work_dir.mkdir(parents=True, exist_ok=True)
    if not settings.resume:
        clear(settings)
    record = StepRecord(settings.work_dir / 'steps.json', fresh=not settings.resume)
    cfg = training_config(settings)
    _step(record, 'data', lambda: make_data(cfg))
    _step(record, 'train', lambda: train(cfg, settings))
    _step(record, 'evaluate', lambda: evaluate(settings))
    started = time.perf_counter()
    metrics = write_report(settings, record, started)
    _log(f'report: {settings.report}')
    return metrics


def clear(settings: DemoSettings) -> None:
    """Remove what an earlier demo left in the work folder, and nothing else."""
    for folder in (settings.train_dir, settings.work_dir / 'evaluate', settings.tokenizer):
        shutil.rmtree(folder, ignore_errors=True)
    for file in (
        settings.work_dir / 'steps.json',
        settings.checkpoint,
        settings.model_config,
        settings.metrics,
        settings.report,
    ):
        file.unlink(missing_ok=True)


def training_config(settings: DemoSettings) -> Config:
    """The config with what the settings say."""
    path = Path(settings.config)
    cfg = Config.fromfile(str(path if path.is_file() else get_config_path(settings.config)))
    if settings.cfg_options:
        cfg.merge_from_dict(dict(settings.cfg_options))
    check_config(cfg)
    cfg.work_dir = str(settings.train_dir)
    cfg.setdefault('launcher', 'none')
    cfg.setdefault('runner_type', 'FiberRunner')
    if settings.seed is not None:
        cfg.setdefault('randomness', {})
        cfg.randomness.seed = settings.seed
    cfg.resume = settings.resume
    return cfg


def make_data(cfg: Config) -> dict[str, Any]:
    """Generate the Shapes images, or find them complete."""
    data = {**DATA, **cfg.get('shapes', {})}
    root = Path(cfg.data_root)
    try:
        generate_shapes(root, dict(data['splits']), data['seed'], data['image_size'])
    except FileExistsError as error:
        raise FileExistsError(
            f'{error}. The demo needs its own images there: move or remove {root}'
        ) from error
    return dict(root=str(root), **data)


def train(cfg: Config, settings: DemoSettings) -> dict[str, Any]:
    """Train by the runner that ``tools/train.py`` uses; keep the weights and what they need."""
    processes = settings.process_count
    started = time.perf_counter()
    result = launch(_train, shared(cfg, processes), processes=processes)
    seconds = time.perf_counter() - started
    last = find_last_checkpoint(settings.train_dir)
    content = load_checkpoint_file(last)
    meta = {'dataset_meta': content.get('meta', {}).get('dataset_meta', {})}
    torch.save({'meta': meta, 'state_dict': content['state_dict']}, settings.checkpoint)
    source = Path(cfg.model.data_preprocessor.tokenizer)
    shutil.copytree(source, settings.tokenizer, dirs_exist_ok=True)
    kept = copy.deepcopy(cfg)
    kept.model.data_preprocessor.tokenizer = str(settings.tokenizer)
    kept.resume, kept.load_from = False, None
    kept.dump(str(settings.model_config))
    return dict(
        # Of a resumed run only a part was timed.
        seconds_per_step=None if settings.resume else round(seconds / result['iterations'], 4),
        batch_size=cfg.train_dataloader.batch_size,
        processes=processes,
        **result,
    )


def _train(cfg: Config) -> dict[str, Any]:
    """Runs in each process."""
    runner = RUNNERS.build(cfg)
    runner.train()
    parameters = sum(p.numel() for p in runner.model.parameters())
    return dict(iterations=runner.iter, parameters=parameters, seed=runner.seed)


def _step(record: StepRecord, name: str, action: Callable[[], dict[str, Any]]) -> None:
    if record.done(name):
        _log(f'step {name!r} is finished already')
        return
    _log(f'step {name!r}')
    started = time.perf_counter()
    result = action()
    record.finish(name, time.perf_counter() - started, result)
    _log(f'step {name!r} took {record.seconds[name]:.0f} s')


def _log(text: str) -> None:
    MMLogger.get_current_instance().info(f'demo: {text}')
