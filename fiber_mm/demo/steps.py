"""The steps of the demo; each reads files that the ones before it wrote."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import MMLogger

from fiber_mm.engine.config import ConfigError, check_config
from fiber_mm.shapes.generate import generate_shapes

from .adapt import read_config, set_steps
from .coarse import check_resumed, coarse_config, refuse_other_length, start_from, train_coarse
from .coarse_evaluation import evaluate_coarse
from .evaluation import evaluate
from .report import write_report
from .settings import DemoSettings, StepRecord
from .training import check_same_config, keep_config, prepare, run_training

#: Data where the config says nothing.
DATA = dict(splits=dict(train=4000, val=500), seed=0, image_size=256)


def run_demo(settings: DemoSettings) -> dict[str, Any]:
    """Make data, train (on captions first, unless that is not wanted), evaluate, draw.

    Args:
        settings: See :class:`DemoSettings`.

    Returns:
        The content of ``metrics.json``.

    Raises:
        ConfigError: the config is faulty, the folder holds files that are not of a demo, or (with
            ``resume``) a demo of other settings. Nothing was changed then.
        FileExistsError: there are other data where the images are to be. The same holds.
    """
    cfg = training_config(settings)
    coarse = coarse_config(settings, cfg) if settings.coarse_steps else None
    record = StepRecord(settings.record, fresh=not settings.resume)
    if settings.resume:
        check_resumed(settings, record, coarse)
        check_same_training(settings, cfg)
    else:
        refuse_foreign_files(settings)
    _step(record, 'data', lambda: begin(cfg, settings))
    if coarse is not None:
        _step(record, 'coarse', lambda: train_coarse(coarse, cfg, settings))
        _step(record, 'evaluate_coarse', lambda: evaluate_coarse(settings))
    _step(record, 'train', lambda: train(cfg, settings))
    _step(record, 'evaluate', lambda: evaluate(settings))
    started = time.perf_counter()
    metrics = write_report(settings, record, started)
    _log(f'report: {settings.report}')
    return metrics


def begin(cfg: Config, settings: DemoSettings) -> dict[str, Any]:
    """Make the data; what an earlier demo left goes only when they are there."""
    data = make_data(cfg)
    if not settings.resume:
        clear(settings)
    settings.work_dir.mkdir(parents=True, exist_ok=True)
    return data


def _folders(settings: DemoSettings) -> list[Path]:
    """That the demo makes in its work folder."""
    evaluation = settings.work_dir / 'evaluate'
    return [settings.train_dir, settings.coarse_dir, evaluation, settings.tokenizer]


def _files(settings: DemoSettings) -> list[Path]:
    return [
        settings.record,
        settings.checkpoint,
        settings.model_config,
        settings.metrics,
        settings.report,
    ]


def refuse_foreign_files(settings: DemoSettings) -> None:
    """Refuse a folder that holds something in the demo's place, but is not of a demo.

    Raises:
        ConfigError: names it.
    """
    if settings.record.is_file():
        return
    there = [p.name for p in (*_folders(settings), *_files(settings)) if p.exists()]
    if there:
        raise ConfigError(
            f'{settings.work_dir} holds {", ".join(there)}, which the demo would replace, but no '
            f'{settings.record.name} of a demo: choose another --work-dir, or remove them'
        )


def clear(settings: DemoSettings) -> None:
    """Remove what an earlier demo left in the work folder, and nothing else."""
    for folder in _folders(settings):
        shutil.rmtree(folder, ignore_errors=True)
    for file in reversed(_files(settings)):  # the record, which says whose they are, last
        file.unlink(missing_ok=True)


def training_config(settings: DemoSettings) -> Config:
    """The config with what the settings say."""
    cfg = read_config(settings.config)
    if settings.steps:
        set_steps(cfg, settings.steps)
    if settings.cfg_options:
        cfg.merge_from_dict(dict(settings.cfg_options))
    check_config(cfg)
    if settings.coarse_steps:
        start_from(cfg, settings.coarse_checkpoint)
    return prepare(cfg, settings.train_dir, settings.seed, settings.resume)


def check_same_training(settings: DemoSettings, cfg: Config) -> None:
    """Refuse to go on with another fine stage than the one that was begun.

    Args:
        settings: Of the demo.
        cfg: From :func:`training_config`.

    Raises:
        ConfigError: says with how many steps it was begun, or what else differs.
    """
    if not settings.model_config.is_file():
        return
    begun = Config.fromfile(str(settings.model_config)).train_cfg.max_iters
    wanted = cfg.train_cfg.max_iters
    refuse_other_length(settings, begun, wanted, 'steps of the fine stage', 'steps')
    check_same_config(cfg, settings.model_config)


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
    keep_config(cfg, settings, settings.model_config)  # first: it says what was begun
    return run_training(cfg, settings.process_count, settings.checkpoint)


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
