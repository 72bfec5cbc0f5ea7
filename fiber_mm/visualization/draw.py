"""Boxes with labels that do not hide what they name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .palette import BLACK, RGB, ink_on

Rect = tuple[float, float, float, float]

#: Longer side, in pixels, that small pictures are enlarged to (at most ``MAX_ENLARGEMENT`` times)
#: and large ones reduced to.
SMALLEST_SIDE, LARGEST_SIDE = 640, 1600
MAX_ENLARGEMENT = 4.0
#: Share of a box that a label inside it may cover.
INSIDE_SHARE = 0.12


@dataclass(frozen=True)
class DrawnBox:
    """A box to draw.

    Attributes:
        box: x1, y1, x2, y2 in pixels of the image.
        label: Text beside the box; empty for none.
        colour: RGB of the line and of the label's ground.
        dashed: Dashed lines, for ground truth beside predictions.
    """

    box: Rect
    label: str
    colour: RGB
    dashed: bool = False


def drawing_scale(height: int, width: int) -> float:
    """How much larger a picture is drawn than it is."""
    longest = max(height, width)
    if longest > LARGEST_SIDE:
        return LARGEST_SIDE / longest
    return min(MAX_ENLARGEMENT, max(1.0, SMALLEST_SIDE / longest))


def draw_boxes(
    image: np.ndarray, boxes: Sequence[DrawnBox], scale: float | None = None
) -> np.ndarray:
    """Draw boxes and their labels.

    Labels go where they cover least: small boxes are kept free before large ones, and no label
    covers another while there is room.

    Args:
        image: (H, W, 3) uint8, RGB.
        boxes: What to draw; later ones are drawn on top.
        scale: Size of the result over that of the image; by default readable on a screen.

    Returns:
        (round(H * scale), round(W * scale), 3) uint8, RGB.

    Raises:
        ValueError: If the image is no (H, W, 3) uint8 array.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(
            f'wanted an (H, W, 3) uint8 image, got shape {image.shape} of {image.dtype}'
        )
    height, width = image.shape[:2]
    scale = drawing_scale(height, width) if scale is None else scale
    size = max(1, round(width * scale)), max(1, round(height * scale))
    smooth = Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS
    picture = Image.fromarray(image).resize(size, smooth)
    canvas = ImageDraw.Draw(picture)
    rects = [_clipped([v * scale for v in b.box], size) for b in boxes]
    line = max(2, round(max(size) / 200))
    for drawn, rect in zip(boxes, rects):
        # The dark casing keeps every colour visible on every background.
        _outline(canvas, rect, BLACK, line + 2)
        _outline(canvas, rect, drawn.colour, line, drawn.dashed)
    font = _font(max(13, round(max(size) / 36)))
    taken: list[Rect] = []
    by_area = sorted(range(len(boxes)), key=lambda i: _area(rects[i]))
    for index in by_area:
        if boxes[index].label:
            text_size = _text_size(font, boxes[index].label)
            place = place_label(rects[index], text_size, size, rects, taken, line)
            taken.append(place)
            _label(canvas, place, boxes[index].label, boxes[index].colour, font)
    return np.asarray(picture)


def place_label(
    rect: Rect,
    text_size: tuple[float, float],
    picture_size: tuple[int, int],
    others: Sequence[Rect],
    taken: Sequence[Rect],
    line: int = 2,
) -> Rect:
    """Find the place beside a box where its label covers least.

    Args:
        rect: The labelled box.
        text_size: Width and height of the label.
        picture_size: Width and height of the picture.
        others: All boxes, the labelled one included.
        taken: Places of labels set so far.
        line: Width of box outlines.

    Returns:
        x1, y1, x2, y2 of the label, inside the picture as far as it fits.
    """
    x1, y1, x2, y2 = rect
    w, h = text_size
    gap = line / 2 + 1
    above, below = y1 - h - gap, y2 + gap
    spots = [
        (x1 - gap, above),
        (x2 + gap - w, above),
        (x1 - gap, below),
        (x2 + gap - w, below),
        ((x1 + x2 - w) / 2, above),
        ((x1 + x2 - w) / 2, below),
        (x2 + gap, y1),
        (x1 - gap - w, y1),
        (x2 + gap, y2 - h),
        (x1 - gap - w, y2 - h),
    ]
    if w * h <= INSIDE_SHARE * _area(rect) and w <= x2 - x1:
        spots += [(x1 + gap, y1 + gap), (x2 - gap - w, y2 - gap - h), (x1 + gap, y2 - gap - h)]

    def cost(order: int, place: Rect) -> tuple[float, int]:
        covered = sum(_overlap(place, t) / (w * h) for t in taken) * 4
        # A share of the covered box counts, so that a small one is never hidden for a large one.
        covered += sum(_overlap(place, o) / max(_area(o), 1.0) for o in others)
        return round(covered, 4), order

    width, height = picture_size
    places = []
    for left, top in spots:
        left = min(max(left, 0), max(width - w, 0))
        top = min(max(top, 0), max(height - h, 0))
        places.append((left, top, left + w, top + h))
    return min(enumerate(places), key=lambda item: cost(*item))[1]


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont:
    # matplotlib brings this font along; it has accents, Greek and Cyrillic.
    path = Path(matplotlib.get_data_path(), 'fonts', 'ttf', 'DejaVuSans.ttf')
    return ImageFont.truetype(str(path), size)


def _text_size(font: ImageFont.FreeTypeFont, text: str) -> tuple[float, float]:
    ascent, descent = font.getmetrics()
    return font.getlength(text) + 8, ascent + descent + 2


def _label(
    canvas: ImageDraw.ImageDraw, place: Rect, text: str, colour: RGB, font: ImageFont.FreeTypeFont
) -> None:
    canvas.rounded_rectangle(place, radius=3, fill=colour, outline=BLACK)
    canvas.text((place[0] + 4, place[1] + 1), text, fill=ink_on(colour), font=font)


def _outline(
    canvas: ImageDraw.ImageDraw, rect: Rect, colour: RGB, width: int, dashed: bool = False
) -> None:
    x1, y1, x2, y2 = rect
    # Pillow draws inwards; here the line's middle is the box's edge.
    half = width / 2
    outer = (x1 - half, y1 - half, x2 + half, y2 + half)
    if not dashed:
        canvas.rectangle(outer, outline=colour, width=width)
        return
    dash, gap = 4 * width, 2 * width
    for (ax, ay), (bx, by) in (
        ((x1 - half, y1), (x2 + half, y1)),
        ((x2, y1 - half), (x2, y2 + half)),
        ((x2 + half, y2), (x1 - half, y2)),
        ((x1, y2 + half), (x1, y1 - half)),
    ):
        length = max(abs(bx - ax), abs(by - ay))
        # Whole dashes, one at each end, so that corners are always drawn.
        number = max(1, round((length + gap) / (dash + gap)))
        step = (length + gap) / number
        for i in range(number):
            a = i * step / max(length, 1e-9)
            b = min((i * step + step * dash / (dash + gap)) / max(length, 1e-9), 1.0)
            canvas.line(
                (ax + (bx - ax) * a, ay + (by - ay) * a, ax + (bx - ax) * b, ay + (by - ay) * b),
                fill=colour,
                width=width,
            )


def _clipped(rect: Sequence[float], size: tuple[int, int]) -> Rect:
    xs = sorted(min(max(v, 0.0), size[0] - 1.0) for v in (rect[0], rect[2]))
    ys = sorted(min(max(v, 0.0), size[1] - 1.0) for v in (rect[1], rect[3]))
    return xs[0], ys[0], xs[1], ys[1]


def _area(rect: Rect) -> float:
    return max(rect[2] - rect[0], 0) * max(rect[3] - rect[1], 0)


def _overlap(a: Rect, b: Rect) -> float:
    return _area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
