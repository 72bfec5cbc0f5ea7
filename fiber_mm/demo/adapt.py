"""Configs of the package, adapted: another number of steps, data elsewhere, a test alone."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from mmengine.config import Config

from fiber_mm.config_lookup import get_config_path

_VALIDATION = ('val_dataloader', 'val_cfg', 'val_evaluator')
_TRAINING = ('train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler', 'custom_hooks')


def read_config(name: str) -> Config:
    """A config by its path, or by its name in the package."""
    path = Path(name)
    return Config.fromfile(str(path if path.is_file() else get_config_path(name)))


def without_validation(cfg: Config) -> None:
    """Leave out, in place, what only validates during a training."""
    for key in _VALIDATION:
        cfg.pop(key, None)


def without_training(cfg: Config) -> None:
    """Leave out, in place, what a config that only tests does without."""
    without_validation(cfg)
    for key in _TRAINING:
        cfg.pop(key, None)


def set_steps(cfg: Config, steps: int) -> None:
    """Train for another number of steps, in place; schedules are stretched or shortened with it.

    A schedule that ends keeps two steps, from the one value to the other: with one, mmengine's
    warm-up would stay at its first value. A shorter training is logged and saved at its end.
    """
    share = steps / cfg.train_cfg.max_iters
    cfg.train_cfg.max_iters = steps
    for scheduler in cfg.get('param_scheduler') or []:
        for key in {'begin', 'end', 'T_max'} & scheduler.keys():
            scheduler[key] = round(scheduler[key] * share)
        if 'end' in scheduler:
            scheduler.end = max(scheduler.end, scheduler.get('begin', 0) + 2)
        if 'T_max' in scheduler:
            scheduler.T_max = max(scheduler.T_max, 1)
    for hook in (cfg.default_hooks.logger, cfg.default_hooks.checkpoint):
        hook.interval = min(hook.interval, steps)


def move_paths(cfg: Config, moves: Mapping[str | PathLike, str | PathLike]) -> None:
    """Read other files, in place: paths, and all below them, are replaced throughout a config.

    Args:
        cfg: Changed in place.
        moves: The new path of each old one. Of several that apply, the first counts.
    """
    pairs = [(str(old).rstrip('/'), str(new).rstrip('/')) for old, new in moves.items()]

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            for key in list(value):
                value[key] = moved(value[key])
        elif isinstance(value, (list, tuple)):
            return type(value)(map(moved, value))
        elif isinstance(value, str):
            for old, new in pairs:
                if f'{value}/'.startswith(f'{old}/'):
                    return new + value[len(old) :]
        return value

    moved(cfg._cfg_dict)
