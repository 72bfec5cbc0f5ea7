"""Contact sheets: many images in rows, each with a few words below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .draw import _font
from .palette import BLACK, RGB, WHITE

_GREY: RGB = (225, 225, 225)
_GAP, _SIZE = 8, 13


@dataclass(frozen=True)
class Tile:
    """One image of a sheet.

    Attributes:
        image: (H, W, 3) uint8, RGB; None draws an empty place.
        lines: Words below; those that are too long are shortened in the middle.
    """

    image: np.ndarray | None
    lines: Sequence[str] = ()


def contact_sheet(
    tiles: Sequence[Tile], title: str = '', columns: int = 5, side: int = 240
) -> np.ndarray:
    """Draw a sheet.

    Args:
        tiles: What to draw, row by row.
        title: Words above all.
        columns: Images per row, at most.
        side: Pixels of the square that an image is fitted into.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        ValueError: if there is nothing to draw.
    """
    if not tiles or columns < 1 or side < 1:
        raise ValueError(
            f'a sheet needs an image, a column and a side, got {len(tiles)}, {columns}, {side}'
        )
    columns = min(columns, len(tiles))
    font, large = _font(_SIZE), _font(_SIZE + 5)
    line = sum(font.getmetrics()) + 2
    foot = line * max(len(tile.lines) for tile in tiles)
    head = sum(large.getmetrics()) + _GAP if title else 0
    wide, high = side + _GAP, side + foot + _GAP
    rows = -(-len(tiles) // columns)
    sheet = Image.new('RGB', (columns * wide + _GAP, head + rows * high + _GAP), WHITE)
    canvas = ImageDraw.Draw(sheet)
    if title:
        text = shortened(title, large, sheet.width - 2 * _GAP)
        canvas.text((_GAP, _GAP), text, fill=BLACK, font=large)
    for number, tile in enumerate(tiles):
        left = _GAP + number % columns * wide
        top = head + _GAP + number // columns * high
        canvas.rectangle((left, top, left + side - 1, top + side - 1), fill=_GREY)
        if tile.image is not None:
            picture = Image.fromarray(tile.image)
            scale = side / max(picture.size)
            size = [max(1, round(v * scale)) for v in picture.size]
            place = left + (side - size[0]) // 2, top + (side - size[1]) // 2
            sheet.paste(picture.resize(size, Image.Resampling.LANCZOS), place)
        for row, words in enumerate(tile.lines):
            text = shortened(words, font, side)
            canvas.text((left, top + side + 1 + row * line), text, fill=BLACK, font=font)
    return np.asarray(sheet)


def shortened(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """A text with as much left out of its middle as does not fit."""
    text = ' '.join(text.encode('utf-8', 'replace').decode().split())
    if font.getlength(text) <= width:
        return text
    kept = len(text)
    while kept > 2 and font.getlength(_cut(text, kept)) > width:
        kept -= 1
    return _cut(text, kept)


def _cut(text: str, kept: int) -> str:
    return f'{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}'
