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
from fiber_mm.demo.evaluation import TRAINING_KEYS
from fiber_mm.engine.config import check_config
from fiber_mm.models.multimodal.pretrain import PARTS_OF

from .settings import AblationSettings
from .variants import FIXED_GATES, VARIANTS

COARSE = 'pretrain/fiber_nano_1xb32_1k_shapes'
FINE = 'grounding/fiber_nano_1xb8_demo_shapes'
RETRIEVAL = 'retrieval/fiber_nano_1xb32_500_shapes'

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


def protocols(losses: tuple[str, ...]) -> tuple[str, ...]:
    """Protocols of retrieval for which a model of these losses has the heads.

    Ranking by matching alone takes every pair, which is too much here.
    """
    if 'itc' not in losses:
        return ()
    return ('itc', 'itm_rerank') if 'itm' in losses else ('itc',)


def retrieval_config(coarse: Config, checkpoint: Path, settings: AblationSettings) -> Config:
    """Retrieval by a coarse checkpoint as it is, on the validation images.

    Args:
        coarse: What it was trained by; gives the model and the image pipeline.
        checkpoint: Its weights.
        settings: Of the campaign.
    """
    losses = tuple(coarse.model.get('losses', PARTS_OF))
    cfg = get_config(RETRIEVAL)
    relocate(cfg, settings.data)
    model = copy.deepcopy(coarse.model)
    model.type = 'FiberRetrieval'
    model.losses = [loss for loss in losses if loss != 'mlm']
    model.hard_negatives = False
    # All heads of pre-training, so that every weight is accounted for.
    model.parts = sorted({part for loss in losses for part in PARTS_OF[loss]})
    model.negatives = 'batch'
    model.pop('queue', None)
    cfg.model = model
    for key in TRAINING_KEYS:
        cfg.pop(key, None)
    train = coarse.train_dataloader
    cfg.test_dataloader.dataset.pipeline = [
        step for step in copy.deepcopy(train.dataset.pipeline) if step.type != 'FiberMaskTokens'
    ]
    cfg.test_dataloader.update(batch_size=train.batch_size, num_workers=train.num_workers)
    cfg.test_dataloader.persistent_workers = train.get('persistent_workers', False)
    cfg.test_cfg.protocols = protocols(losses)
    cfg.test_evaluator = dict(type='FiberRetrievalRecall', topk=TOPK)
    cfg.work_dir = f'{coarse.work_dir}_retrieval'
    cfg.experiment_name = f'{coarse.experiment_name}_retrieval'
    cfg.load_from, cfg.resume = str(checkpoint), False
    cfg.launcher = 'none'
    return cfg


def relocate(cfg: Config, root: Path) -> None:
    """Let everything that a config reads below its ``data_root`` be read below another folder."""
    old = str(cfg.data_root).rstrip('/')
    new = str(root).rstrip('/')

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            for key in list(value):
                value[key] = moved(value[key])
            return value
        if isinstance(value, (list, tuple)):
            return type(value)(moved(item) for item in value)
        if isinstance(value, str) and (value == old or value.startswith(f'{old}/')):
            return new + value[len(old) :]
        return value

    moved(cfg._cfg_dict)


def set_steps(cfg: Config, steps: int) -> None:
    """Train for another number of steps; the schedule is stretched or shortened with it."""
    factor = steps / cfg.train_cfg.max_iters
    for scheduler in cfg.param_scheduler:
        begin = round(scheduler.get('begin', 0) * factor)
        end = max(round(scheduler.end * factor), begin + 1)
        scheduler.update(begin=begin, end=end)
        if 'T_max' in scheduler:
            scheduler.T_max = end - begin
    cfg.train_cfg.update(max_iters=steps, val_interval=steps + 1)
    checkpoint = cfg.default_hooks.checkpoint
    checkpoint.interval = min(checkpoint.interval, steps)
    logger = cfg.default_hooks.logger
    logger.interval = min(logger.interval, steps)


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
    for key in ('val_dataloader', 'val_cfg', 'val_evaluator'):
        cfg.pop(key, None)
    relocate(cfg, settings.data)
    set_steps(cfg, steps or cfg.train_cfg.max_iters)
    cfg.setdefault('runner_type', 'FiberRunner')
    cfg.launcher = 'none'
    return cfg


def _run(cfg: Config, name: str, seed: int, folder: Path, gates_fixed: bool) -> Config:
    if gates_fixed:
        paramwise = cfg.optim_wrapper.paramwise_cfg
        paramwise.rules = [*paramwise.rules, dict(FIXED_GATES)]
    cfg.setdefault('randomness', {})
    cfg.randomness.seed = seed
    cfg.work_dir = str(folder)
    # Runs of one process must not share mmengine's scope and logs.
    cfg.experiment_name = f'{name}_seed{seed}'
    return cfg
