"""What the coarse stage reaches: images and captions find each other, phrases are pointed at."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from fiber_mm.engine.gallery import Gallery
from fiber_mm.models.multimodal.pretrain import LOSSES, PARTS_OF
from fiber_mm.registry import DATASETS, init_default_scope

from .adapt import move_paths, read_config, without_training
from .annotations import caption_numbers
from .evaluation import SPLIT, plain, run_tests
from .settings import DemoSettings

RETRIEVAL_CONFIG = 'fiber_nano_1xb32_500_shapes'
HEATMAP_CONFIG = 'fiber_nano_heatmap_shapes'
#: Images of the evaluations, the first of the split; a caption of each for the heatmaps.
IMAGES = 200


def evaluate_coarse(settings: DemoSettings) -> dict[str, Any]:
    """Evaluate the pre-trained weights, without any fine-tuning.

    Args:
        settings: Of the demo.

    Returns:
        ``retrieval``: ``images`` and ``captions`` (numbers), ``chance`` (recall@1 of a random
        order, in both directions) and the recalls by protocol; ``heatmaps``: the scores of
        :class:`~fiber_mm.evaluation.metrics.FiberHeatmapMetric`.
    """
    retrieval = retrieval_config(settings)
    scores = plain(run_tests([retrieval, heatmap_config(settings)], settings.process_count))
    gallery = Gallery.of_dataset(build_dataset(retrieval))
    count = len(gallery.image_ids)
    prefix = 'heatmap/'
    return dict(
        retrieval=dict(
            images=count,
            captions=len(gallery.texts),
            # A caption has one image; of an image's captions any counts, c of all: c / T on
            # average over the images, which is 1 / I, too.
            chance=1 / count,
            **{name: v for name, v in scores.items() if not name.startswith(prefix)},
        ),
        heatmaps={
            name.removeprefix(prefix): v for name, v in scores.items() if name.startswith(prefix)
        },
    )


def build_dataset(cfg: Config) -> Any:
    """The data set of a config's test."""
    init_default_scope(cfg.default_scope)
    return DATASETS.build(cfg.test_dataloader.dataset)


def retrieval_config(settings: DemoSettings) -> Config:
    """The retrieval test of the demo's pre-trained weights."""
    coarse = Config.fromfile(str(settings.coarse_model_config))
    work_dir = settings.work_dir / 'evaluate' / 'retrieval'
    cfg = retrieval_test(coarse, settings.coarse_checkpoint, work_dir)
    cfg.test_dataloader.dataset.indices = IMAGES
    return cfg


def retrieval_test(coarse: Config, checkpoint: Path, work_dir: Path) -> Config:
    """Retrieval by pre-trained weights as they are, on the validation images of their data.

    Args:
        coarse: What they were trained by; gives model, data, batch and size of the images.
        checkpoint: The weights.
        work_dir: For logs.
    """
    cfg = read_config(RETRIEVAL_CONFIG)
    model = copy.deepcopy(coarse.model)
    losses = tuple(model.get('losses', LOSSES))
    for key in ('negatives', 'queue', 'hard_negatives'):
        model.pop(key, None)
    model.update(
        type='FiberRetrieval',
        losses=[loss for loss in losses if loss != 'mlm'],
        # All heads of pre-training, so that every weight is accounted for.
        parts=sorted({part for loss in losses for part in PARTS_OF[loss]}),
    )
    cfg.model = model
    cfg.test_cfg.protocols = protocols(losses)
    return _prepared(cfg, coarse, checkpoint, work_dir)


def protocols(losses: Sequence[str]) -> tuple[str, ...]:
    """Protocols of retrieval for which a model of these losses has the heads.

    Ranking by matching alone takes every pair, which is too much here.
    """
    if 'itc' not in losses:
        return ()
    return ('itc', 'itm_rerank') if 'itm' in losses else ('itc',)


def heatmap_config(settings: DemoSettings) -> Config:
    """The test of phrases pointed at by the pre-trained weights."""
    coarse = Config.fromfile(str(settings.coarse_model_config))
    cfg = read_config(HEATMAP_CONFIG)
    cfg.model.model = coarse.model
    # Of every image one caption of its five.
    cfg.test_dataloader.dataset.indices = caption_numbers(Path(coarse.data_root), SPLIT)[:IMAGES]
    work_dir = settings.work_dir / 'evaluate' / 'heatmaps'
    return _prepared(cfg, coarse, settings.coarse_checkpoint, work_dir)


def _prepared(cfg: Config, coarse: Config, checkpoint: Path, work_dir: Path) -> Config:
    """The config as a test of coarse weights, on data, batches and image size of their stage."""
    without_training(cfg)
    move_paths(cfg, {cfg.data_root: coarse.data_root})
    train, test = coarse.train_dataloader, cfg.test_dataloader
    pipeline = test.dataset.pipeline
    pipeline[pipeline.index(_resize_of(pipeline))] = _resize_of(train.dataset.pipeline)
    test.update(batch_size=train.batch_size, num_workers=train.num_workers)
    test.persistent_workers = train.get('persistent_workers', False)
    cfg.work_dir = str(work_dir)
    cfg.load_from = str(checkpoint)
    cfg.setdefault('launcher', 'none')
    return cfg


def _resize_of(pipeline: Any) -> ConfigDict:
    return next(step for step in pipeline if step['type'] == 'FiberSquareResize')
