"""One training of the demo: by the runner of ``tools/train.py``, on one or several processes."""

from __future__ import annotations

import copy
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config

from fiber_mm.convert.io import write_checkpoint
from fiber_mm.engine.checkpoint import find_last_checkpoint, load_checkpoint_file
from fiber_mm.engine.config import ConfigError
from fiber_mm.engine.launch import launch
from fiber_mm.registry import RUNNERS

from .processes import shared
from .settings import DemoSettings


def prepare(cfg: Config, folder: Path, seed: int | None, resume: bool) -> Config:
    """What the runner needs, set in place.

    Args:
        cfg: Of a training.
        folder: For logs and checkpoints, and for nothing else.
        seed: Of the training; None keeps the config's.
        resume: Whether a training that was begun there goes on.
    """
    cfg.work_dir = str(folder)
    cfg.setdefault('launcher', 'none')
    cfg.setdefault('runner_type', 'FiberRunner')
    if seed is not None:
        cfg.setdefault('randomness', {})
        cfg.randomness.seed = seed
    cfg.resume = resume
    return cfg


def run_training(cfg: Config, processes: int, checkpoint: Path) -> dict[str, Any]:
    """Train, or go on with a training that was begun; keep the weights.

    Args:
        cfg: From :func:`prepare`.
        processes: How many share the work.
        checkpoint: File for the trained weights.

    Returns:
        ``seconds_per_step`` (of a resumed run, of which only a part was timed, None),
        ``batch_size``, ``processes``, ``iterations``, ``parameters`` and ``seed``.
    """
    cfg = copy.deepcopy(cfg)
    work_dir = Path(cfg.work_dir)
    cfg.resume = cfg.resume and find_last_checkpoint(work_dir) is not None
    if cfg.resume:
        cfg.load_from = None  # with both, mmengine would resume from the start weights
    else:  # what is there is of a training that was killed before its first checkpoint
        shutil.rmtree(work_dir, ignore_errors=True)
    started = time.perf_counter()
    result = launch(_train, shared(cfg, processes), processes=processes)
    seconds = time.perf_counter() - started
    _keep_weights(work_dir, checkpoint)
    return dict(
        seconds_per_step=None if cfg.resume else round(seconds / result['iterations'], 4),
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


def _keep_weights(folder: Path, checkpoint: Path) -> None:
    """Write the weights of a training's last checkpoint, without the optimiser's state."""
    content = load_checkpoint_file(find_last_checkpoint(folder))
    meta = {'dataset_meta': content.get('meta', {}).get('dataset_meta', {})}
    write_checkpoint(checkpoint, content['state_dict'], meta)


def keep_config(cfg: Config, settings: DemoSettings, path: Path) -> None:
    """Write the config with a copy of the tokenizer, so that the model works without the data."""
    source = Path(cfg.model.data_preprocessor.tokenizer)
    shutil.copytree(source, settings.tokenizer, dirs_exist_ok=True)
    kept = _as_kept(cfg)
    # Relative to the config, so that it works from any folder, and moves along.
    place = Path(os.path.relpath(settings.tokenizer, path.parent)).as_posix()
    kept.model.data_preprocessor.tokenizer = f'{{{{ fileDirname }}}}/{place}'
    kept.dump(str(path))


def _as_kept(cfg: Config) -> Config:
    kept = copy.deepcopy(cfg)
    kept.resume, kept.load_from = False, None
    kept.pop('load_leave_out', None)
    return kept


def check_same_config(cfg: Config, path: Path) -> None:
    """Refuse to go on with another config than the one that was begun.

    Args:
        cfg: From :func:`prepare`.
        path: What :func:`keep_config` wrote; folders and the tokenizer may have moved since.

    Raises:
        ConfigError: names the settings that differ.
    """
    begun, wanted = (dict(_settings(c.to_dict())) for c in (Config.fromfile(path), _as_kept(cfg)))
    other = [
        f'{key} {begun.get(key)} there, {wanted.get(key)} wanted'
        for key in sorted(begun.keys() | wanted.keys())
        if begun.get(key) != wanted.get(key) and key.split('.')[-1] not in ('work_dir', 'tokenizer')
    ]
    if other:
        raise ConfigError(
            f'{path} was begun with other settings: {"; ".join(other[:5])}'
            f'{" and more" if len(other) > 5 else ""}. Go on with the same options, or start anew '
            'without --resume'
        )


def _settings(value: Any, name: str = '') -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of all that is no dictionary or list."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _settings(item, f'{name}.{key}' if name else str(key))
    elif isinstance(value, (list, tuple)):
        yield f'{name}.len', len(value)
        for number, item in enumerate(value):
            yield from _settings(item, f'{name}.{number}')
    else:
        yield name, value
