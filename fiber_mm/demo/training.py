"""One training of the demo: by the runner of ``tools/train.py``, on one or several processes."""

from __future__ import annotations

import copy
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from fiber_mm.config_lookup import get_config_path
from fiber_mm.engine.checkpoint import find_last_checkpoint, load_checkpoint_file
from fiber_mm.engine.launch import launch
from fiber_mm.registry import RUNNERS

from .processes import shared
from .settings import DemoSettings


def read_config(name: str) -> Config:
    """A config by its path, or by its name in the package."""
    path = Path(name)
    return Config.fromfile(str(path if path.is_file() else get_config_path(name)))


def prepare(cfg: Config, settings: DemoSettings, folder: Path) -> Config:
    """What the runner needs and the settings say, set in place.

    Args:
        cfg: Of a training.
        settings: Of the demo.
        folder: For logs and checkpoints.
    """
    cfg.work_dir = str(folder)
    cfg.setdefault('launcher', 'none')
    cfg.setdefault('runner_type', 'FiberRunner')
    if settings.seed is not None:
        cfg.setdefault('randomness', {})
        cfg.randomness.seed = settings.seed
    cfg.resume = settings.resume
    return cfg


def run_training(cfg: Config, settings: DemoSettings) -> dict[str, Any]:
    """Train.

    Args:
        cfg: From :func:`prepare`.
        settings: Of the demo.

    Returns:
        ``seconds_per_step`` (of a resumed run, of which only a part was timed, None),
        ``batch_size``, ``processes``, ``iterations``, ``parameters`` and ``seed``.
    """
    processes = settings.process_count
    started = time.perf_counter()
    result = launch(_train, shared(cfg, processes), processes=processes)
    seconds = time.perf_counter() - started
    return dict(
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


def keep_weights(folder: Path, checkpoint: Path) -> None:
    """Write the weights of a training's last checkpoint, without the optimiser's state."""
    content = load_checkpoint_file(find_last_checkpoint(folder))
    meta = {'dataset_meta': content.get('meta', {}).get('dataset_meta', {})}
    torch.save({'meta': meta, 'state_dict': content['state_dict']}, checkpoint)


def keep_config(cfg: Config, settings: DemoSettings, path: Path) -> None:
    """Write the config with a copy of the tokenizer, so that the model works without the data."""
    source = Path(cfg.model.data_preprocessor.tokenizer)
    shutil.copytree(source, settings.tokenizer, dirs_exist_ok=True)
    kept = copy.deepcopy(cfg)
    kept.model.data_preprocessor.tokenizer = str(settings.tokenizer)
    kept.resume, kept.load_from = False, None
    kept.dump(str(path))
