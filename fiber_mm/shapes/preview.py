"""Contact sheets: images with boxes, names and a caption each."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from .scene import Scene, scene_from_dict

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_TILE, _FOOT = 384, 62


def _label(image: np.ndarray, text: str, x: int, y: int, back: tuple[int, int, int]) -> None:
    (w, h), _ = cv2.getTextSize(text, _FONT, 0.38, 1)
    x = max(0, min(x, image.shape[1] - w - 2))
    y = max(h + 3, y)
    cv2.rectangle(image, (x, y - h - 3), (x + w + 2, y + 2), back, -1)
    cv2.putText(image, text, (x + 1, y - 1), _FONT, 0.38, (255, 255, 255), 1, cv2.LINE_AA)


def _wrap(text: str, width: int) -> list[str]:
    lines = ['']
    for word in text.split(' '):
        joined = f'{lines[-1]} {word}'.strip()
        if cv2.getTextSize(joined, _FONT, 0.38, 1)[0][0] > width and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = joined
    return lines


def draw_tile(scene: Scene, image: np.ndarray) -> np.ndarray:
    """One image with its boxes (held-out classes in red), a caption and an expression below."""
    k = _TILE / scene.width
    size = (_TILE, round(scene.height * k))
    image = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
    for obj in scene.objects:
        x, y, w, h = (round(v * k) for v in obj.box)
        colour = (40, 40, 220) if obj.held_out else (60, 60, 60)
        cv2.rectangle(image, (x, y), (x + w - 1, y + h - 1), (255, 255, 255), 1)
        _label(image, obj.category, x, y, colour)
    foot = np.full((_FOOT, _TILE, 3), 255, np.uint8)
    texts = [scene.captions[0]['text']]
    texts += [f'ref: {e["text"]} = #{e["object"]}' for e in scene.expressions[:1]]
    lines = [line for text in texts for line in _wrap(text, _TILE - 8)]
    for i, line in enumerate(lines[:4]):
        cv2.putText(foot, line, (4, 14 + 14 * i), _FONT, 0.38, (0, 0, 0), 1, cv2.LINE_AA)
    return np.vstack([image, foot])


def contact_sheet(out: str | Path, columns: int = 5, rows: int = 4) -> Path:
    """Draw the first images of a Shapes folder ('val' if it has one) into ``preview.png``.

    Returns: path of the picture.
    """
    out = Path(out)
    splits = list(json.loads((out / 'meta.json').read_text(encoding='utf-8'))['splits'])
    split = 'val' if 'val' in splits else splits[0]
    tiles = []
    with (out / f'scenes_{split}.jsonl').open(encoding='utf-8') as lines:
        for line in islice(lines, columns * rows):
            scene = scene_from_dict(json.loads(line))
            image = cv2.imread(str(out / split / scene.file_name))
            if image is None:
                raise OSError(f'{out / split / scene.file_name}: cannot be read as an image')
            tiles.append(draw_tile(scene, image))
    blank = np.full_like(tiles[0], 255)
    tiles += [blank] * (-len(tiles) % columns)
    sheet = [np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
    path = out / 'preview.png'
    if not cv2.imwrite(str(path), np.vstack(sheet)):
        raise OSError(f'{path}: could not be written')
    return path
