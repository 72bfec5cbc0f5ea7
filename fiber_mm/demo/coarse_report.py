"""What the report says of the coarse stage: numbers, images found by captions, phrases seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from torch import nn
from torch.utils.data import DataLoader, Dataset

from fiber_mm.apis import FiberHeatmap, init_grounder
from fiber_mm.datasets.transforms import read_image
from fiber_mm.engine.block_cache import BlockCache
from fiber_mm.engine.gallery import Gallery
from fiber_mm.engine.retrieval import RetrievalEvaluation
from fiber_mm.report import (
    code_block,
    figure,
    gallery,
    paragraph,
    plot_curves,
    read_curves,
    section,
    table,
)
from fiber_mm.visualization import DrawnBox, Tile, contact_sheet, draw_boxes
from fiber_mm.visualization.palette import OKABE_ITO

from . import annotations
from .annotations import LabelledImage
from .coarse_evaluation import build_dataset, heatmap_config, retrieval_config
from .evaluation import SPLIT
from .settings import DemoSettings

SHOWN_SEARCHES, SHOWN_IMAGES, SHOWN_HEATMAPS = 6, 5, 4
_GREEN = OKABE_ITO[2]


@dataclass(frozen=True)
class Search:
    """What a caption finds.

    Attributes:
        caption: The query.
        right: Number of the image it was made for.
        order: Numbers of the images after re-ranking, the best first; as many as were re-ranked.
        scores: Their log-odds of a match.
        cosine_place: Of the right image by the dual encoder, from 1 on.
    """

    caption: str
    right: int
    order: list[int]
    scores: list[float]
    cosine_place: int

    @property
    def place(self) -> int:
        """Of the right image after re-ranking, from 1 on; the others keep their place."""
        return self.order.index(self.right) + 1 if self.right in self.order else self.cosine_place


def coarse_sections(metrics: dict[str, Any], settings: DemoSettings) -> dict[str, str]:
    """The parts of the page.

    Args:
        metrics: ``training``, ``retrieval`` and ``heatmaps`` of the coarse stage.
        settings: Of the demo.
    """
    cfg = retrieval_config(settings)
    model = init_grounder(cfg, settings.coarse_checkpoint)
    dataset = build_dataset(cfg)
    found = searches(model, dataset, SHOWN_SEARCHES, cfg.test_cfg.rerank_topk)
    paths = Gallery.of_dataset(dataset).paths
    cfg = heatmap_config(settings)
    heatmap = FiberHeatmap(cfg, settings.coarse_checkpoint)
    root = Path(cfg.data_root)
    captions = annotations.caption_images(root, SPLIT)
    seen = [captions[i] for i in annotations.caption_numbers(root, SPLIT)[:SHOWN_HEATMAPS]]
    return {
        'coarse': _numbers(metrics, settings),
        'retrieval': section(
            'Images that a caption finds',
            paragraph(
                f'The first captions of the first {len(found)} validation images, whatever the '
                f'result. The first {SHOWN_IMAGES} of {metrics["retrieval"]["images"]} images by '
                'cosine, re-ranked by matching; a green frame marks the one that the caption was '
                'written for.',
                soft=True,
            ),
            gallery([search_figure(search, paths) for search in found], 'full'),
        ),
        'heatmaps': section(
            'Phrases seen without boxes',
            paragraph(
                'Where the fused blocks look for each phrase of a caption, after training on '
                'captions alone. Light: much; the ring marks the peak, dashed boxes the truth. The '
                'first caption of the first images. A map is as coarse as the grid of the '
                'fused block.',
                soft=True,
            ),
            gallery([heatmap_figure(heatmap, item) for item in seen], 'full'),
            paragraph('For your own images:'),
            code_block(
                'python tools/heatmap.py photo.jpg --text "a red circle above two rings" \\\n'
                f'    --model {settings.coarse_model_config} \\\n'
                f'    --checkpoint {settings.coarse_checkpoint} --out heatmap.png'
            ),
        ),
    }


@torch.no_grad()
def searches(model: nn.Module, dataset: Dataset, count: int, topk: int) -> list[Search]:
    """Look for the first caption of each of the first images.

    Args:
        model: ``FiberRetrieval`` in evaluation mode.
        dataset: One sample is an image with all its captions; all of them are searched.
        count: How many captions.
        topk: Images of each that matching re-ranks.
    """
    found = Gallery.of_dataset(dataset)
    loader = DataLoader(dataset, batch_size=32, collate_fn=pseudo_collate)
    with BlockCache(2**30) as cache:
        work = RetrievalEvaluation(model, loader, found, cache, ('features',))
        images, texts = work.features
    out = []
    for right in range(min(count, len(dataset))):
        number = found.image_of_text.tolist().index(right)
        cosines = images @ texts[number]
        best = cosines.sort(descending=True, stable=True).indices[:topk]
        inputs = [dataset[i]['inputs'] for i in best.tolist()]
        trunk = model.encode_images(model.data_preprocessor.prepare_images(inputs))
        words = model.data_preprocessor.prepare_texts([found.texts[number]])
        scores = model.pair_scores(trunk, model.encode_texts(words).repeat(len(best)))
        order = scores.sort(descending=True, stable=True)
        out.append(
            Search(
                found.texts[number],
                right,
                best[order.indices].tolist(),
                order.values.tolist(),
                int((cosines >= cosines[right]).sum()),
            )
        )
    return out


def search_figure(search: Search, paths: Sequence[str]) -> str:
    """The best images of a search, the right one framed."""
    tiles = []
    for place, number in enumerate(search.order[:SHOWN_IMAGES], 1):
        image = _rgb(paths[number])
        right = number == search.right
        height, width = image.shape[:2]
        frame = [DrawnBox((0, 0, width - 1, height - 1), '', _GREEN)] if right else []
        score = f'{search.scores[place - 1]:+.1f}'
        tiles.append(Tile(draw_boxes(image, frame), [f'{place}{" ✓" if right else ""}  {score}']))
    tone, word = ('good', '✓') if search.place == 1 else ('bad', '✗')
    note = (
        f'<span class={tone}>{word}</span> {escape(search.caption)}<br><span class=soft>the right '
        f'image is number {search.cosine_place} by cosine, {search.place} after re-ranking; below '
        'each image its log-odds of a match</span>'
    )
    return figure(contact_sheet(tiles, columns=SHOWN_IMAGES, side=210), note, search.caption)


def heatmap_figure(heatmap: FiberHeatmap, item: LabelledImage) -> str:
    """The maps of a caption's phrases, with their true boxes."""
    spans = [[list(span) for span in phrase] for phrase in item.spans]
    boxes = [
        [box.tolist() for box, label in zip(item.boxes, item.labels) if label == number]
        for number in range(len(spans))
    ]
    picture = heatmap.draw(str(item.path), item.text, spans=spans, boxes=boxes)
    return figure(picture, escape(item.text), f'maps of the phrases of: {item.text}')


def _numbers(metrics: dict[str, Any], settings: DemoSettings) -> str:
    training, retrieval, maps = metrics['training'], metrics['retrieval'], metrics['heatmaps']
    start, chance = training['start'], _percent(retrieval['chance'])
    rows = [
        [f'{what}, {how}', _percent(retrieval[f'{protocol}/{direction}@1']), chance]
        for direction, what in (
            ('TR', 'An image finds a caption of its own, R@1'),
            ('IR', 'A caption finds its image, R@1'),
        )
        for protocol, how in (('itc', 'by cosine'), ('itm_rerank', 're-ranked by matching'))
    ]
    if 'pointing' in maps:
        rows.append(
            [
                'The peak of a phrase lies in a box of its',
                _percent(maps['pointing']),
                f'{_percent(maps["pointing_chance"])} (centre of the image: '
                f'{_percent(maps["pointing_centre"])})',
            ]
        )
        rows.append(
            [
                'The box around it overlaps one of its (IoU 0.5)',
                _percent(maps['box_recall@0.5']),
                f'{_percent(maps["box_recall_image"])} (the whole image as the box)',
            ]
        )
    curves = read_curves(settings.coarse_train_dir).train
    lines = {
        title: curves[name]
        for name, title in (
            ('loss_itc', 'contrast'),
            ('loss_itm', 'matching'),
            ('loss_mlm', 'masked words'),
        )
        if name in curves
    }
    return section(
        'Before any box: images and captions alone',
        paragraph(
            f'{training["iterations"]} steps of {training["batch_size"]} images with a caption '
            f'each. Evaluated on the first {retrieval["images"]} validation images and their '
            f'{retrieval["captions"]} captions, phrases on one caption an image. Of the weights '
            f'the detector started from {start["used"]} ({start["resized"]} position-bias tables '
            f'resized); {start["dropped"]} heads, norms and gates were left behind, and '
            f'{start["fresh"]} weights of the detector were new.'
        ),
        table(['On validation images', 'Score', 'Chance'], rows),
        gallery([figure(plot_curves('Losses', lines), '', 'losses')]) if lines else '',
    )


def _rgb(path: str) -> np.ndarray:
    return np.ascontiguousarray(read_image(path)[..., ::-1])


def _percent(value: float) -> str:
    return f'{100 * value:.1f} %'
