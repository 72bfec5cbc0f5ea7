"""The coarse stage of the demo: pre-training on captions, and the start that it gives the fine one.

Resuming keeps to what was begun: a demo without this stage does not get one later, nor one of
another length.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from fiber_mm.convert.files import log_summary
from fiber_mm.convert.initial import initial_weights
from fiber_mm.convert.io import write_checkpoint
from fiber_mm.engine.checkpoint import find_last_checkpoint, load_checkpoint_file
from fiber_mm.engine.config import ConfigError, check_config
from fiber_mm.registry import MODELS, init_default_scope

from .adapt import move_paths, read_config, set_steps, without_validation
from .settings import DemoSettings, StepRecord
from .training import keep_config, prepare, run_training


def coarse_config(settings: DemoSettings, fine: Config) -> Config:
    """The config of the coarse training, on the data of the fine one.

    Args:
        settings: Of the demo.
        fine: The fine stage's config.
    """
    cfg = read_config(settings.coarse_config)
    check_config(cfg)
    tokenizers = [part.model.data_preprocessor.tokenizer for part in (cfg, fine)]
    move_paths(cfg, dict([tokenizers, (cfg.data_root, fine.data_root)]))
    set_steps(cfg, settings.coarse_steps)
    without_validation(cfg)  # it is evaluated at its end
    return prepare(cfg, settings.coarse_train_dir, settings.seed, settings.resume)


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
    if begun is not None:
        refuse_other_length(settings, begun, settings.coarse_steps, 'coarse steps', 'coarse-steps')


def refuse_other_length(
    settings: DemoSettings, begun: int, wanted: int, what: str, option: str
) -> None:
    """Refuse to go on with another number of steps than a stage was begun with.

    Args:
        settings: Of the demo.
        begun, wanted: Steps.
        what: What they are called.
        option: Of the command line, that sets them.

    Raises:
        ConfigError: says with how many steps the demo was begun.
    """
    if begun != wanted:
        raise ConfigError(
            f'the demo in {settings.work_dir} was begun with {begun} {what} and cannot go on '
            f'with {wanted}: give --{option} {begun}, or start anew without --resume'
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
    result = run_training(cfg, settings.process_count, settings.coarse_checkpoint)
    start = write_start(fine, settings.coarse_checkpoint, settings.start, fresh_gates=True)
    return dict(config=settings.coarse_config, start=start, **result)


def write_start(
    fine: Config, source: Path, start: Path, fresh_gates: bool = False
) -> dict[str, int]:
    """The fine stage's initial weights, by the converter; every key is accounted for in the log.

    Args:
        fine: The fine stage's config, whose window the position-bias tables are resized to.
        source: The coarse weights.
        start: File to write.
        fresh_gates: Whether the gates are left out, so that they start as the fine stage says. From
            scratch, open ones slowed FIBER-nano down there.

    Returns:
        Numbers of weights ``used`` (among them ``resized`` ones), ``dropped`` and ``fresh``.
    """
    backbone = fine.model.backbone
    family = 'fine_refexp' if backbone.fusion.get('norm_i2t_query') else 'fine'
    state = load_checkpoint_file(source)['state_dict']
    converted = initial_weights([state], family, backbone.swin.window_size)
    weights, report = converted.state_dict, converted.report
    if fresh_gates:
        for key in [key for key, name in report.used.items() if 'alpha_' in name]:
            del weights[report.used.pop(key)]
            report.dropped[key] = 'gates start fresh'
    start.parent.mkdir(parents=True, exist_ok=True)
    write_checkpoint(start, weights, converted.meta)
    # The converter knows the released heads alone; this model's own weights are what is new.
    init_default_scope(fine.get('default_scope', 'mmdet'))
    with torch.device('meta'):
        names = MODELS.build(fine.model).state_dict()
    report.fresh = {name: 'new' for name in names if name not in weights}
    log_summary(report)
    return {name: len(getattr(report, name)) for name in ('used', 'resized', 'dropped', 'fresh')}
