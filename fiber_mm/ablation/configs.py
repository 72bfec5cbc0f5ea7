"""Configs of the runs: the nano configs with what the campaign and the variant say."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from fiber_mm.config_lookup import get_config
from fiber_mm.demo.adapt import move_paths, set_steps, without_validation
from fiber_mm.demo.coarse_evaluation import retrieval_test
from fiber_mm.demo.training import prepare
from fiber_mm.engine.config import check_config

from .settings import AblationSettings
from .variants import FIXED_GATES, VARIANTS

COARSE = 'pretrain/fiber_nano_1xb32_1k_shapes'
FINE = 'grounding/fiber_nano_1xb8_demo_shapes'

#: Of a recall at 1; mmengine's metric wants as many images and captions as the largest.
TOPK = (1, 5)


def coarse_base(settings: AblationSettings) -> Config:
    """The coarse config with the campaign's settings."""
    return _base(COARSE, settings, settings.coarse_options, settings.coarse_steps)


def fine_base(settings: AblationSettings) -> Config:
    """The fine config with the campaign's settings."""
    return _base(FINE, settings, settings.fine_options, settings.fine_steps)


def coarse_config(base: Config, name: str, seed: int, folder: Path) -> Config:
    """The coarse stage of a variant.

    Args:
        base: From :func:`coarse_base`.
        name: Of the variant, which has a coarse stage.
        seed: Of the training.
        folder: Of the run.
    """
    variant = VARIANTS[name]
    cfg = copy.deepcopy(base)
    cfg.merge_from_dict({f'model.{key}': value for key, value in variant.encoder.items()})
    cfg.merge_from_dict(dict(variant.coarse))
    return _run(cfg, f'coarse_{name}', seed, folder, variant.coarse_gates_fixed)


def fine_config(base: Config, name: str, seed: int, folder: Path) -> Config:
    """The fine stage of a variant; arguments as in :func:`coarse_config`."""
    variant = VARIANTS[name]
    cfg = copy.deepcopy(base)
    options = {**variant.encoder, **{f'fusion.{k}': v for k, v in variant.fine_fusion.items()}}
    cfg.merge_from_dict({f'model.backbone.{key}': value for key, value in options.items()})
    return _run(cfg, f'fine_{name}', seed, folder, variant.fine_gates_fixed)


def retrieval_config(coarse: Config, checkpoint: Path) -> Config:
    """Retrieval by a coarse checkpoint as it is; arguments as of :func:`retrieval_test`."""
    cfg = retrieval_test(coarse, checkpoint, Path(f'{coarse.work_dir}_retrieval'))
    cfg.test_evaluator.topk = TOPK
    cfg.experiment_name = f'{coarse.experiment_name}_retrieval'
    cfg.launcher = 'none'
    return cfg


def digest(cfg: Config) -> str:
    """A short name of everything that a config says."""
    text = json.dumps(cfg.to_dict(), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _base(
    name: str, settings: AblationSettings, options: Mapping[str, Any], steps: int | None
) -> Config:
    cfg = get_config(name)
    cfg.merge_from_dict(dict(settings.cfg_options))
    cfg.merge_from_dict(dict(options))
    check_config(cfg)
    # What counts is the evaluation at the end.
    without_validation(cfg)
    move_paths(cfg, {cfg.data_root: settings.data})
    set_steps(cfg, steps or cfg.train_cfg.max_iters)
    cfg.launcher = 'none'
    return cfg


def _run(cfg: Config, name: str, seed: int, folder: Path, gates_fixed: bool) -> Config:
    if gates_fixed:
        paramwise = cfg.optim_wrapper.paramwise_cfg
        paramwise.rules = [*paramwise.rules, dict(FIXED_GATES)]
    # Runs of one process must not share mmengine's scope and logs.
    cfg.experiment_name = f'{name}_seed{seed}'
    return prepare(cfg, folder, seed, resume=True)
