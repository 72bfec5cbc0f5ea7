"""One coarse run and one fine run: trained, evaluated, resumed where they were killed."""

from __future__ import annotations

import copy
import math
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger

from fiber_mm.convert.initial import initial_weights
from fiber_mm.demo.evaluation import evaluate
from fiber_mm.demo.processes import shared
from fiber_mm.demo.settings import DemoSettings
from fiber_mm.demo.training import keep_weights
from fiber_mm.engine.checkpoint import find_last_checkpoint, load_checkpoint_file
from fiber_mm.engine.launch import launch
from fiber_mm.registry import RUNNERS

from .configs import coarse_config, fine_config, protocols, retrieval_config
from .settings import AblationSettings
from .variants import VARIANTS

#: Scores of the fine stage, by their names in the files of numbers, and what to call them.
FINE_SCORES = {
    'ap50_seen': 'AP50 seen',
    'ap50_unseen': 'AP50 unseen',
    'phrase_recall_at_1': 'phrase R@1',
    'refexp_accuracy': 'RefExp',
}
#: Scores of the coarse checkpoint as it is.
RETRIEVAL_SCORES = {
    'itc/IR@1': 'ITC IR@1',
    'itc/TR@1': 'ITC TR@1',
    'itm_rerank/IR@1': 'ITM IR@1',
    'itm_rerank/TR@1': 'ITM TR@1',
}
SCORES = {**FINE_SCORES, **RETRIEVAL_SCORES}


def scores_of(name: str) -> dict[str, str]:
    """The scores that a variant can have: without a head, or a coarse stage, some are missing."""
    own = protocols(VARIANTS[name].losses)
    retrieval = {k: v for k, v in RETRIEVAL_SCORES.items() if k.split('/')[0] in own}
    return {**FINE_SCORES, **retrieval}


def weights_of(folder: Path) -> Path:
    """The trained weights of a run."""
    return folder / 'model.pth'


def coarse_run(base: Config, name: str, seed: int, settings: AblationSettings) -> dict[str, Any]:
    """Train and evaluate the coarse stage of a variant.

    Args:
        base: The coarse config of the campaign.
        name, seed: Of the run.
        settings: Of the campaign.

    Returns:
        Scores of retrieval by the checkpoint as it is, and how it was made.
    """
    folder = settings.coarse_dir(name, seed)
    cfg = coarse_config(base, name, seed, folder)
    made = _train(cfg, None, settings)
    started = time.perf_counter()
    scores: dict[str, float] = {}
    if protocols(VARIANTS[name].losses):
        processes = settings.process_count
        test = retrieval_config(cfg, weights_of(folder), settings)
        scores = launch(_test, shared(test, processes), processes=processes)
    return dict(
        **made,
        evaluation_seconds=round(time.perf_counter() - started, 1),
        scores=_plain({key: scores[key] for key in scores_of(name) if key in RETRIEVAL_SCORES}),
        all_scores=_plain(scores),
    )


def fine_run(
    base: Config, name: str, seed: int, settings: AblationSettings, coarse: str | None
) -> dict[str, Any]:
    """Train and evaluate the fine stage of a variant.

    Args:
        base: The fine config of the campaign.
        name, seed: Of the run.
        settings: Of the campaign.
        coarse: Name of the finished coarse run that it starts from; None: from scratch.

    Returns:
        Scores, and how they were made.
    """
    folder = settings.fine_dir(name, seed)
    cfg = fine_config(base, name, seed, folder / 'train')
    start, used = None, {}
    if coarse is not None:
        start = folder / 'start.pth'
        source = weights_of(settings.coarse_dir(coarse, seed))
        used = write_start(source, start, VARIANTS[name].fresh_gates)
    made = _train(cfg, start, settings, folder)
    started = time.perf_counter()
    demo = DemoSettings(work_dir=folder, processes=settings.process_count)
    kept = copy.deepcopy(cfg)
    kept.resume, kept.load_from = False, None
    kept.dump(str(demo.model_config))
    scores = evaluate(demo)
    return dict(
        **made,
        **used,
        evaluation_seconds=round(time.perf_counter() - started, 1),
        scores=_plain({key: scores[key] for key in FINE_SCORES}),
        all_scores=scores['all_scores'],
    )


def write_start(source: Path, start: Path, fresh_gates: bool) -> dict[str, Any]:
    """Start weights of the fine stage from a coarse checkpoint of ours.

    Args:
        source: The coarse checkpoint.
        start: File to write.
        fresh_gates: Whether the gates are left out, so that they start as the model says.

    Returns:
        How many weights were taken.
    """
    state = load_checkpoint_file(source)['state_dict']
    # The kind with a LayerNorm on the fused query, which FIBER-nano has.
    found = initial_weights([state], target='fine_refexp')
    tensors = {
        key: value
        for key, value in found.state_dict.items()
        if not (fresh_gates and 'alpha_' in key)
    }
    start.parent.mkdir(parents=True, exist_ok=True)
    torch.save(dict(state_dict=tensors, meta={}), start)
    dropped = sorted(found.report.dropped)
    _log(
        f'{len(tensors)} of {len(state)} weights of {source} start the fine stage; without '
        f'{", ".join(dropped)}' + (', and the gates' if fresh_gates else '')
    )
    return dict(start_weights=len(tensors))


def remove_checkpoints(folder: Path) -> None:
    """Delete what only a run that goes on needs; the weights stay."""
    for path in [*folder.glob('iter_*.pth'), folder / 'last_checkpoint', folder / 'start.pth']:
        path.unlink(missing_ok=True)


def _train(
    cfg: Config, start: Path | None, settings: AblationSettings, folder: Path | None = None
) -> dict[str, Any]:
    """Train, or go on where the run was killed; leaves ``model.pth``.

    Args:
        cfg: Of the run.
        start: Start weights; None: as the model starts by itself.
        settings: Of the campaign.
        folder: Where the weights go; None: the config's work folder.
    """
    work_dir = Path(cfg.work_dir)
    processes = settings.process_count
    cfg = copy.deepcopy(cfg)
    cfg.resume = find_last_checkpoint(work_dir) is not None
    # With both, mmengine would resume from the start weights.
    cfg.load_from = str(start) if start and not cfg.resume else None
    if not cfg.resume:  # not even a first checkpoint: what is there is of a killed run
        shutil.rmtree(work_dir, ignore_errors=True)
    started = time.perf_counter()
    made = launch(_trained, shared(cfg, processes), processes=processes)
    seconds = time.perf_counter() - started
    keep_weights(work_dir, weights_of(folder or work_dir))
    return dict(
        **made,
        batch_size=cfg.train_dataloader.batch_size,
        processes=processes,
        # Of a resumed run only a part was timed.
        training_seconds=None if cfg.resume else round(seconds, 1),
    )


def _trained(cfg: Config) -> dict[str, Any]:
    """Runs in each process."""
    runner = RUNNERS.build(cfg)
    runner.train()
    model = runner.model
    return dict(
        steps=runner.iter,
        parameters=sum(p.numel() for p in model.parameters()),
        gates=[p.item() for name, p in model.named_parameters() if 'alpha_' in name],
    )


def _test(cfg: Config) -> dict[str, float]:
    """Runs in each process."""
    return dict(RUNNERS.build(cfg).test())


def _plain(scores: Mapping[str, float]) -> dict[str, float | None]:
    """JSON has null for a score that is undefined."""
    return {k: None if math.isnan(v) else float(v) for k, v in scores.items()}


def _log(text: str) -> None:
    MMLogger.get_current_instance().info(f'ablations: {text}')
