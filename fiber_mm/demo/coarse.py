"""The coarse stage of the demo: pre-training on captions, which the fine stage starts from.

Resuming keeps to what was begun: a demo without this stage does not get one later, nor one of
another length.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from fiber_mm.engine.checkpoint import find_last_checkpoint, load_checkpoint_file
from fiber_mm.engine.config import ConfigError, check_config
from fiber_mm.engine.stages import match_stage
from fiber_mm.registry import MODELS, init_default_scope

from .adapt import move_paths, read_config, set_steps, without_validation
from .settings import DemoSettings, StepRecord
from .training import check_same_config, keep_config, prepare, run_training


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


def check_resumed(settings: DemoSettings, record: StepRecord, cfg: Config | None = None) -> None:
    """Refuse to go on with another coarse stage than the one that was begun.

    Args:
        settings: Of the demo.
        record: Of its finished steps.
        cfg: From :func:`coarse_config`, where that stage is wanted.

    Raises:
        ConfigError: says with how many steps the demo was begun, or what else differs.
    """
    begun = None
    if settings.coarse_model_config.is_file():
        begun = Config.fromfile(str(settings.coarse_model_config)).train_cfg.max_iters
    elif record.done('train') or find_last_checkpoint(settings.train_dir):
        begun = 0
    if begun is not None:
        refuse_other_length(settings, begun, settings.coarse_steps, 'coarse steps', 'coarse-steps')
        if cfg is not None:
            check_same_config(cfg, settings.coarse_model_config)


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
    """Pre-train on captions; keep the weights.

    Args:
        cfg: From :func:`coarse_config`.
        fine: The fine stage's config, from :func:`start_from`.
        settings: Of the demo.

    Returns:
        What :func:`run_training` gives, ``config``, and in ``start`` what :func:`count_start` does.
    """
    settings.coarse_dir.mkdir(parents=True, exist_ok=True)
    keep_config(cfg, settings, settings.coarse_model_config)  # first: it says what was begun
    result = run_training(cfg, settings.process_count, settings.coarse_checkpoint)
    return dict(config=settings.coarse_config, start=count_start(fine), **result)


def start_from(fine: Config, source: Path, fresh_gates: bool = True) -> None:
    """Let the fine stage start from coarse weights, set in place.

    Args:
        fine: The fine stage's config.
        source: The coarse weights.
        fresh_gates: Whether the gates are left out, so that they start as the config says. From
            scratch, open ones slowed FIBER-nano down there.
    """
    fine.load_from = str(source)
    if fresh_gates:
        fine.load_leave_out = ['alpha_']


def count_start(fine: Config) -> dict[str, int]:
    """How much of its start weights a fine stage takes, by the same rules as the runner.

    Args:
        fine: From :func:`start_from`.

    Returns:
        Numbers of weights ``used`` (among them ``resized`` ones), ``dropped`` and ``fresh``.
    """
    state = load_checkpoint_file(fine.load_from)['state_dict']
    init_default_scope(fine.get('default_scope', 'mmdet'))
    with torch.device('meta'):
        model = MODELS.build(copy.deepcopy(fine.model))  # detectors write into their config
    _, report = match_stage(model, state, fine.get('load_leave_out') or ())
    return {name: len(getattr(report, name)) for name in ('used', 'resized', 'dropped', 'fresh')}
