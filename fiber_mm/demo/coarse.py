"""The coarse stage of the demo: pre-training on captions, and the start that it gives the fine one.

Resuming keeps to what was begun: a demo without this stage does not get one later, nor one of
another length.
"""

from __future__ import annotations

from typing import Any

import torch
from mmengine.config import Config

from fiber_mm.convert.files import convert_file, log_summary
from fiber_mm.engine.checkpoint import find_last_checkpoint
from fiber_mm.engine.config import ConfigError, check_config
from fiber_mm.registry import MODELS, init_default_scope

from .settings import DemoSettings, StepRecord
from .training import keep_config, keep_weights, prepare, read_config, run_training

#: Keys of what this stage leaves out: it is evaluated at its end.
_VALIDATION = ('val_dataloader', 'val_evaluator', 'val_cfg')


def coarse_config(settings: DemoSettings, fine: Config) -> Config:
    """The config of the coarse training, on the data of the fine one.

    Args:
        settings: Of the demo.
        fine: The fine stage's config.
    """
    cfg = read_config(settings.coarse_config)
    check_config(cfg)
    on_data(cfg._cfg_dict, fine.data_root, fine.model.data_preprocessor.tokenizer)
    with_steps(cfg, settings.coarse_steps)
    for key in _VALIDATION:
        cfg.pop(key, None)
    return prepare(cfg, settings, settings.coarse_train_dir)


def on_data(node: Any, data_root: str, tokenizer: str) -> None:
    """Name another folder of Shapes, and another tokenizer, throughout a config, in place."""
    if isinstance(node, (list, tuple)):
        for item in node:
            on_data(item, data_root, tokenizer)
    elif isinstance(node, dict):
        for key, value in list(node.items()):
            if key in ('data_root', 'tokenizer') and isinstance(value, str):
                node[key] = data_root if key == 'data_root' else tokenizer
            else:
                on_data(value, data_root, tokenizer)


def with_steps(cfg: Config, steps: int) -> None:
    """Another number of training steps, in place; the schedule is stretched or shrunk to it."""
    share = steps / cfg.train_cfg.max_iters
    cfg.train_cfg.max_iters = steps
    logger = cfg.default_hooks.logger
    logger.interval = min(logger.interval, steps)  # the report draws the losses
    if share == 1:
        return
    for scheduler in cfg.get('param_scheduler') or []:
        begin = scheduler['begin'] = round(scheduler.get('begin', 0) * share)
        if 'end' in scheduler:  # two steps at least: from the one value to the other
            scheduler['end'] = max(begin + 2, round(scheduler['end'] * share))
        if 'T_max' in scheduler:
            scheduler['T_max'] = max(1, round(scheduler['T_max'] * share))


def check_resumed(settings: DemoSettings, record: StepRecord) -> None:
    """Refuse to go on with another coarse stage than the one that was begun.

    Raises:
        ConfigError: says with how many steps the demo was begun.
    """
    begun = None
    if settings.coarse_model_config.is_file():
        begun = Config.fromfile(str(settings.coarse_model_config)).train_cfg.max_iters
    elif record.done('train') or find_last_checkpoint(settings.train_dir):
        begun = 0
    if begun is not None and begun != settings.coarse_steps:
        raise ConfigError(
            f'the demo in {settings.work_dir} was begun with {begun} coarse steps and cannot go on '
            f'with {settings.coarse_steps}: give --coarse-steps {begun}, or start anew without '
            '--resume'
        )


def train_coarse(cfg: Config, fine: Config, settings: DemoSettings) -> dict[str, Any]:
    """Pre-train on captions; keep the weights, and make the fine stage's start of them.

    Args:
        cfg: From :func:`coarse_config`.
        fine: The fine stage's config.
        settings: Of the demo.

    Returns:
        What :func:`run_training` gives, ``config``, and in ``start`` the number of weights that
        are used, resized, dropped and fresh.
    """
    settings.coarse_dir.mkdir(parents=True, exist_ok=True)
    keep_config(cfg, settings, settings.coarse_model_config)  # first: it says what was begun
    result = run_training(cfg, settings)
    keep_weights(settings.coarse_train_dir, settings.coarse_checkpoint)
    return dict(config=settings.coarse_config, start=write_start(fine, settings), **result)


def write_start(fine: Config, settings: DemoSettings) -> dict[str, int]:
    """The fine stage's initial weights, by the converter; every key is accounted for in the log.

    Args:
        fine: The fine stage's config, whose window the position-bias tables are resized to.
        settings: Say where the coarse weights are, and where the start goes.

    Returns:
        Numbers of weights ``used`` (among them ``resized`` ones), ``dropped`` and ``fresh``.
    """
    backbone = fine.model.backbone
    family = 'fine_refexp' if backbone.fusion.get('norm_i2t_query') else 'fine'
    converted = convert_file(
        settings.coarse_checkpoint,
        settings.start,
        init=family,
        window=backbone.swin.window_size,
        any_size=True,
    )
    # The converter knows the released heads alone; this model's own weights are what is new.
    init_default_scope(fine.get('default_scope', 'mmdet'))
    with torch.device('meta'):
        names = MODELS.build(fine.model).state_dict()
    report = converted.report
    report.fresh = {name: 'new' for name in names if name not in converted.state_dict}
    log_summary(report)
    return {name: len(getattr(report, name)) for name in ('used', 'resized', 'dropped', 'fresh')}
