"""The three evaluations of the demo, as configs for the runner."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from fiber_mm.engine.launch import launch
from fiber_mm.registry import RUNNERS

from .adapt import without_training
from .annotations import caption_numbers, class_names
from .processes import shared
from .settings import DemoSettings

SPLIT = 'val'


def evaluate(settings: DemoSettings) -> dict[str, Any]:
    """Evaluate the trained model on the validation images.

    Args:
        settings: Of the demo.

    Returns:
        Scores as fractions: those of the targets, some more, and ``all_scores``; None where a
        score is undefined, as that of classes without true boxes.
    """
    cfg = Config.fromfile(str(settings.model_config))
    scores = run_tests(evaluation_configs(cfg, settings).values(), settings.process_count)
    headlines = dict(
        ap50_seen=scores['coco/seen_mAP_50'],
        ap50_unseen=scores['coco/unseen_mAP_50'],
        refexp_accuracy=scores['refexp/precision@1'],
        phrase_recall_at_1=scores['flickr30k/R@1'],
        phrase_recall_at_5=scores['flickr30k/R@5'],
        ap50_all=scores['coco/bbox_mAP_50'],
        ap_seen=scores['coco/seen_mAP'],
        ap_unseen=scores['coco/unseen_mAP'],
    )
    return dict(plain(headlines), all_scores=plain(scores))


def plain(scores: Mapping[str, float]) -> dict[str, float | None]:
    """Scores for JSON, which has null for what is undefined (as without true boxes), not NaN."""
    return {name: None if math.isnan(v) else float(v) for name, v in scores.items()}


def run_tests(parts: Iterable[Config], processes: int) -> dict[str, float]:
    """The scores of all configs, together.

    Args:
        parts: Configs that test.
        processes: How many share the work.
    """
    return launch(_test, [shared(part, processes) for part in parts], processes=processes)


def _test(parts: list[Config]) -> dict[str, float]:
    """Runs in each process."""
    scores: dict[str, float] = {}
    for cfg in parts:
        scores.update(RUNNERS.build(cfg).test())
    return scores


def evaluation_configs(cfg: Config, settings: DemoSettings) -> dict[str, Config]:
    """Configs that test detection, phrases and expressions on the images of a split.

    Args:
        cfg: The training's config; its test loader gives batch size and image pipeline.
        settings: Of the demo.
    """
    root = Path(cfg.data_root)
    seen, held_out = class_names(root)
    images = dict(data_root=str(root), data_prefix=dict(img=f'{SPLIT}/'), test_mode=True)
    instances = f'annotations/instances_{SPLIT}.json'
    captions = f'annotations/final_flickr_separateGT_{SPLIT}.json'
    tasks = dict(
        detection=(
            dict(type='FiberCocoDataset', ann_file=instances, **images),
            dict(
                type='FiberCocoMetric',
                ann_file=str(root / instances),
                subsets=dict(seen=seen, unseen=held_out),
            ),
        ),
        phrases=(
            dict(
                type='FiberMDETRDataset',
                ann_file=captions,
                # Of every image one caption of its five, the one that lists objects.
                indices=caption_numbers(root, SPLIT),
                **images,
            ),
            dict(type='FiberFlickr30kMetric'),
        ),
        expressions=(
            dict(
                type='FiberMDETRDataset',
                ann_file=f'annotations/finetune_refcoco_{SPLIT}.json',
                **images,
            ),
            dict(type='FiberRefExpMetric'),
        ),
    )
    loader = cfg.test_dataloader
    dataset = loader.dataset
    while 'pipeline' not in dataset:
        dataset = dataset.get('dataset') or dataset['datasets'][0]
    out = {}
    for name, (data, metric) in tasks.items():
        part = copy.deepcopy(cfg)
        without_training(part)
        part.work_dir = str(settings.work_dir / 'evaluate' / name)
        part.load_from = str(settings.checkpoint)
        part.test_dataloader.dataset = dict(pipeline=dataset.pipeline, **data)
        part.test_evaluator = metric
        part.test_cfg = dict(type='TestLoop')
        if name == 'expressions':
            part.model.test_cfg.score_thr = 0.0  # an answer is always wanted
        out[name] = part
    return out
