"""One coarse run and one fine run: trained, evaluated, resumed where they were killed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from mmengine.config import Config

from fiber_mm.demo.coarse import count_start, start_from
from fiber_mm.demo.coarse_evaluation import protocols
from fiber_mm.demo.evaluation import evaluate, plain, run_tests
from fiber_mm.demo.settings import DemoSettings
from fiber_mm.demo.training import keep_config, run_training
from fiber_mm.engine.checkpoint import load_checkpoint_file

from .configs import coarse_config, fine_config, retrieval_config
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
    made = run_training(cfg, settings.process_count, weights_of(folder))
    started = time.perf_counter()
    scores: dict[str, float | None] = {}
    if protocols(VARIANTS[name].losses):
        test = retrieval_config(cfg, weights_of(folder))
        scores = plain(run_tests([test], settings.process_count))
    return dict(
        **made,
        gates=_gates(weights_of(folder)),
        evaluation_seconds=round(time.perf_counter() - started, 1),
        scores={key: scores[key] for key in scores_of(name) if key in RETRIEVAL_SCORES},
        all_scores=scores,
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
    used = None
    if coarse is not None:
        source = weights_of(settings.coarse_dir(coarse, seed))
        start_from(cfg, source, not VARIANTS[name].kept_gates)
        used = count_start(cfg)
    made = run_training(cfg, settings.process_count, weights_of(folder))
    started = time.perf_counter()
    demo = DemoSettings(work_dir=folder, processes=settings.process_count)
    keep_config(cfg, demo, demo.model_config)
    scores = evaluate(demo)
    return dict(
        **made,
        gates=_gates(weights_of(folder)),
        start=used,
        evaluation_seconds=round(time.perf_counter() - started, 1),
        scores={key: scores[key] for key in FINE_SCORES},
        all_scores=scores['all_scores'],
    )


def remove_checkpoints(folder: Path) -> None:
    """Delete what only a run that goes on needs; the weights stay."""
    for path in [*folder.glob('iter_*.pth'), folder / 'last_checkpoint']:
        path.unlink(missing_ok=True)


def _gates(weights: Path) -> list[float]:
    """Values of the trained gates."""
    state = load_checkpoint_file(weights)['state_dict']
    return [value.item() for name, value in state.items() if 'alpha_' in name]
