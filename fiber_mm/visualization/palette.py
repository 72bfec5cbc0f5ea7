"""Colours that people with any kind of colour vision tell apart."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

RGB = tuple[int, int, int]

#: Okabe and Ito, "Color Universal Design", 2008, without black.
OKABE_ITO: tuple[RGB, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (204, 121, 167),
    (0, 114, 178),
    (213, 94, 0),
    (240, 228, 66),
    (153, 153, 153),
)
WHITE: RGB = (255, 255, 255)
BLACK: RGB = (0, 0, 0)


def colours_of(names: Iterable[Hashable]) -> dict[Hashable, RGB]:
    """One colour per distinct name, in order of first occurrence; they repeat after eight."""
    distinct = dict.fromkeys(names)
    return {name: OKABE_ITO[i % len(OKABE_ITO)] for i, name in enumerate(distinct)}


def ink_on(colour: RGB) -> RGB:
    """Black or white, whichever is easier to read on a colour (relative luminance, WCAG 2)."""

    def linear(channel: int) -> float:
        c = channel / 255
        return c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4

    r, g, b = (linear(c) for c in colour)
    return BLACK if 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.18 else WHITE


def hex_of(colour: RGB) -> str:
    """(230, 159, 0) -> '#e69f00'."""
    return '#{:02x}{:02x}{:02x}'.format(*colour)
