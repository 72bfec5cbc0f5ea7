"""Heatmaps laid over their image."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from PIL import Image, ImageDraw

from fiber_mm.evaluation.functional.heatmap import peak

from .draw import DrawnBox, Rect, draw_boxes, drawing_scale
from .palette import BLACK, OKABE_ITO, WHITE
from .sheet import Tile, contact_sheet

#: Light where the map is high, and even in lightness for every kind of colour vision.
COLOURS = 'inferno'
#: How much of the image is hidden where the map is highest.
OPACITY = 0.6
#: What is left of the image's light where the map is lowest.
DIMMED = 0.6
_TRUE: tuple[int, int, int] = OKABE_ITO[1]


def blend_heatmap(image: np.ndarray, heatmap: np.ndarray) -> np.ndarray:
    """An image that is dark where a map is low, and glows where it is high.

    Args:
        image: (H, W, 3) uint8, RGB.
        heatmap: (H, W) in [0, 1].

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        ValueError: For other shapes, types or values.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f'wanted an (H, W, 3) uint8 image, got {image.dtype} of {image.shape}')
    heatmap = np.asarray(heatmap, dtype=np.float64)
    if heatmap.shape != image.shape[:2]:
        raise ValueError(f'a map has the size of its image, {image.shape[:2]}, got {heatmap.shape}')
    if not (heatmap.min() >= 0 and heatmap.max() <= 1):
        raise ValueError(f'a map is in [0, 1], got {heatmap.min()} to {heatmap.max()}')
    colours = matplotlib.colormaps[COLOURS](heatmap)[..., :3] * 255
    heat = heatmap[..., None]
    dimmed = image * (DIMMED + (1 - DIMMED) * heat)
    return ((1 - OPACITY * heat) * dimmed + OPACITY * heat * colours).round().astype(np.uint8)


def draw_heatmaps(
    image: np.ndarray,
    maps: Sequence[np.ndarray],
    phrases: Sequence[str],
    caption: str = '',
    boxes: Sequence[Sequence[Rect]] | None = None,
    columns: int = 4,
    side: int = 320,
) -> np.ndarray:
    """A sheet of an image and, for each phrase, the image under its map with the peak marked.

    Args:
        image: (H, W, 3) uint8, RGB.
        maps: (H, W) in [0, 1] for each phrase; one that is 0 everywhere has no peak.
        phrases: Words below the pictures.
        caption: Words above all.
        boxes: For each phrase true boxes, x1, y1, x2, y2 in pixels, drawn with dashes.
        columns: Pictures per row, at most.
        side: Pixels of the square that a picture is fitted into.

    Returns:
        (height, width, 3) uint8, RGB.

    Raises:
        ValueError: If the numbers of maps, phrases and boxes differ, and for faulty maps.
    """
    boxes = [()] * len(phrases) if boxes is None else boxes
    if not len(maps) == len(phrases) == len(boxes):
        raise ValueError(
            f'{len(maps)} maps, {len(phrases)} phrases and boxes of {len(boxes)}: one of each is '
            'wanted for every phrase'
        )
    scale = drawing_scale(*image.shape[:2])
    tiles = [Tile(draw_boxes(image, [], scale), ['image'])]
    for heatmap, phrase, true_boxes in zip(maps, phrases, boxes):
        drawn = [DrawnBox(tuple(box), '', _TRUE, dashed=True) for box in true_boxes]
        picture = draw_boxes(blend_heatmap(image, heatmap), drawn, scale)
        place = peak(heatmap)
        if place is not None:
            picture = _marked(picture, [(v + 0.5) * scale for v in place])
        tiles.append(Tile(picture, [phrase if place is not None else f'{phrase} (no peak)']))
    return contact_sheet(tiles, caption, columns, side)


def _marked(picture: np.ndarray, place: Sequence[float]) -> np.ndarray:
    """With a ring around a place (row, column)."""
    marked = Image.fromarray(picture)
    canvas = ImageDraw.Draw(marked)
    radius = max(4, max(marked.size) / 60)
    y, x = place
    for colour, width in ((BLACK, 5), (WHITE, 2)):
        grown = radius + width / 2
        canvas.ellipse((x - grown, y - grown, x + grown, y + grown), outline=colour, width=width)
    return np.asarray(marked)
