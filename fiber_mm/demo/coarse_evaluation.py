"""What the coarse stage reaches: images and captions find each other, phrases are pointed at."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from fiber_mm.engine.gallery import Gallery
from fiber_mm.engine.launch import launch
from fiber_mm.models.multimodal.pretrain import LOSSES, PARTS_OF
from fiber_mm.registry import DATASETS, init_default_scope

from .annotations import caption_numbers
from .coarse import on_data
from .evaluation import SPLIT, TRAINING_KEYS, run_tests
from .processes import shared
from .settings import DemoSettings
from .training import read_config

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
    retrieval, heatmaps = retrieval_config(settings), heatmap_config(settings)
    processes = settings.process_count
    parts = [shared(part, processes) for part in (retrieval, heatmaps)]
    scores = launch(run_tests, parts, processes=processes)
    gallery = Gallery.of_dataset(build_dataset(retrieval))
    count = len(gallery.image_ids)
    prefix = 'heatmap/'
    scores = {name: None if math.isnan(v) else float(v) for name, v in scores.items()}
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
    """The retrieval test of the pre-trained weights: dual encoder, and re-ranking by matching."""
    coarse = Config.fromfile(str(settings.coarse_model_config))
    cfg = read_config(RETRIEVAL_CONFIG)
    model = ConfigDict(coarse.model)
    parts = {part for loss in model.get('losses', LOSSES) for part in PARTS_OF[loss]}
    for key in ('negatives', 'queue'):
        model.pop(key, None)
    model.update(
        type='FiberRetrieval', losses=('itc', 'itm'), hard_negatives=True, parts=sorted(parts)
    )
    cfg.model = model
    cfg.test_dataloader.dataset.indices = IMAGES
    return _prepared(cfg, coarse, settings, 'retrieval')


def heatmap_config(settings: DemoSettings) -> Config:
    """The test of phrases pointed at by the pre-trained weights."""
    coarse = Config.fromfile(str(settings.coarse_model_config))
    cfg = read_config(HEATMAP_CONFIG)
    cfg.model.model = coarse.model
    # Of every image one caption of its five.
    cfg.test_dataloader.dataset.indices = caption_numbers(Path(coarse.data_root), SPLIT)[:IMAGES]
    return _prepared(cfg, coarse, settings, 'heatmaps')


def _prepared(cfg: Config, coarse: Config, settings: DemoSettings, name: str) -> Config:
    """The config as a test of the coarse weights, on the data and the image size of their stage."""
    for key in TRAINING_KEYS:
        cfg.pop(key, None)
    on_data(cfg._cfg_dict, coarse.data_root, coarse.model.data_preprocessor.tokenizer)
    resize = _resize_of(coarse.train_dataloader.dataset.pipeline)
    pipeline = cfg.test_dataloader.dataset.pipeline
    pipeline[pipeline.index(_resize_of(pipeline))] = resize
    cfg.work_dir = str(settings.work_dir / 'evaluate' / name)
    cfg.load_from = str(settings.coarse_checkpoint)
    cfg.setdefault('launcher', 'none')
    return cfg


def _resize_of(pipeline: Any) -> ConfigDict:
    return next(step for step in pipeline if step['type'] == 'FiberSquareResize')
