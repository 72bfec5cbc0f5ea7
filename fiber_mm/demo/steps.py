"""The steps of the demo; each reads files that the ones before it wrote."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import MMLogger

from fiber_mm.engine.config import check_config
from fiber_mm.shapes.generate import generate_shapes

from .adapt import read_config, set_steps
from .coarse import check_resumed, coarse_config, refuse_other_length, train_coarse
from .coarse_evaluation import evaluate_coarse
from .evaluation import evaluate
from .report import write_report
from .settings import DemoSettings, StepRecord
from .training import keep_config, prepare, run_training

#: Data where the config says nothing.
DATA = dict(splits=dict(train=4000, val=500), seed=0, image_size=256)


def run_demo(settings: DemoSettings) -> dict[str, Any]:
    """Make data, train (on captions first, unless that is not wanted), evaluate, draw.

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
    check_resumed(settings, record)
    check_same_steps(settings, cfg)
    _step(record, 'data', lambda: make_data(cfg))
    if settings.coarse_steps:
        coarse = coarse_config(settings, cfg)
        _step(record, 'coarse', lambda: train_coarse(coarse, cfg, settings))
        _step(record, 'evaluate_coarse', lambda: evaluate_coarse(settings))
    _step(record, 'train', lambda: train(cfg, settings))
    _step(record, 'evaluate', lambda: evaluate(settings))
    started = time.perf_counter()
    metrics = write_report(settings, record, started)
    _log(f'report: {settings.report}')
    return metrics


def clear(settings: DemoSettings) -> None:
    """Remove what an earlier demo left in the work folder, and nothing else."""
    for folder in (
        settings.train_dir,
        settings.coarse_dir,
        settings.work_dir / 'evaluate',
        settings.tokenizer,
    ):
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
    cfg = read_config(settings.config)
    if settings.steps:
        set_steps(cfg, settings.steps)
    if settings.cfg_options:
        cfg.merge_from_dict(dict(settings.cfg_options))
    check_config(cfg)
    return prepare(cfg, settings.train_dir, settings.seed, settings.resume)


def check_same_steps(settings: DemoSettings, cfg: Config) -> None:
    """Refuse to go on with another length of the fine stage than the one that was begun.

    Args:
        settings: Of the demo.
        cfg: From :func:`training_config`.

    Raises:
        ConfigError: says with how many steps it was begun.
    """
    if not settings.model_config.is_file():
        return
    begun = Config.fromfile(str(settings.model_config)).train_cfg.max_iters
    wanted = cfg.train_cfg.max_iters
    refuse_other_length(settings, begun, wanted, 'steps of the fine stage', 'steps')


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
    start = settings.start if settings.coarse_steps else None
    keep_config(cfg, settings, settings.model_config)  # first: it says what was begun
    return run_training(cfg, settings.process_count, settings.checkpoint, start)


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
