"""What the pictures of the report need to know about the Shapes images."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class LabelledImage:
    """An image with the boxes of its objects, or of the phrases of one text about it.

    Attributes:
        path: The image.
        boxes: (N, 4) xyxy, pixels.
        names: N class names, or phrases.
        text: The text; empty for plain detection.
        spans: Character spans of each phrase of the text.
        labels: For each box the number of its phrase.
    """

    path: Path
    boxes: np.ndarray
    names: list[str]
    text: str = ''
    spans: tuple[tuple[tuple[int, int], ...], ...] = ()
    labels: tuple[int, ...] = ()


def detection_images(root: Path, split: str) -> list[LabelledImage]:
    """All images of a split with their objects."""
    data = _read(root, f'instances_{split}')
    names = {row['id']: row['name'] for row in data['categories']}
    return [
        LabelledImage(
            root / split / image['file_name'],
            _boxes(rows),
            [names[row['category_id']] for row in rows],
        )
        for image, rows in _with_rows(data)
    ]


def caption_images(root: Path, split: str) -> list[LabelledImage]:
    """All captions of a split with the boxes of their phrases."""
    out = []
    data = _read(root, f'final_flickr_separateGT_{split}')
    for image, rows in _with_rows(data):
        spans = tuple(
            tuple((start, end) for start, end in phrase) for phrase in image['tokens_positive_eval']
        )
        starts = [[list(span) for span in phrase] for phrase in spans]
        labels = tuple(starts.index(row['tokens_positive']) for row in rows)
        caption = image['caption']
        phrases = [' '.join(caption[a:b] for a, b in phrase) for phrase in spans]
        out.append(
            LabelledImage(
                root / split / image['file_name'],
                _boxes(rows),
                [phrases[label] for label in labels],
                caption,
                spans,
                labels,
            )
        )
    return out


def expression_images(root: Path, split: str) -> list[LabelledImage]:
    """All referring expressions of a split with the box that each means."""
    data = _read(root, f'finetune_refcoco_{split}')
    return [
        LabelledImage(
            root / split / image['file_name'],
            _boxes(rows),
            [image['caption']],
            image['caption'],
            (((0, len(image['caption'])),),),
            (0,),
        )
        for image, rows in _with_rows(data)
    ]


def class_names(root: Path) -> tuple[list[str], list[str]]:
    """The classes of the training images, and those held out of them."""
    meta = json.loads((root / 'meta.json').read_text(encoding='utf-8'))
    return meta['seen'], meta['held_out']


def caption_numbers(root: Path, split: str) -> list[int]:
    """Positions, among the captions of a split, of the first caption of each image."""
    images = _read(root, f'final_flickr_separateGT_{split}')['images']
    return [i for i, image in enumerate(images) if image['sentence_id'] == 0]


def _read(root: Path, name: str) -> dict:
    return json.loads((root / 'annotations' / f'{name}.json').read_text(encoding='utf-8'))


def _with_rows(data: dict) -> list[tuple[dict, list[dict]]]:
    rows: dict[int, list[dict]] = {image['id']: [] for image in data['images']}
    for row in data['annotations']:
        rows[row['image_id']].append(row)
    return [(image, rows[image['id']]) for image in data['images']]


def _boxes(rows: list[dict]) -> np.ndarray:
    boxes = np.array([row['bbox'] for row in rows], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes
