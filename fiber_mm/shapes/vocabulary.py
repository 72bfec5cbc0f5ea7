"""The names of the Shapes world: colours, shapes, textures, categories.

Category order is part of the format: seen combinations come first, held-out ones last, so that
label ``i`` means the same class in a label map of the seen classes and in one of all classes.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple


class Colour(NamedTuple):
    """Range of one colour name in HSV.

    Hue ranges of neighbours are at least 10 degrees apart, so that every sampled colour has one
    name. ``second`` scales (saturation, value) to the second tone of a textured object, chosen so
    that the tone keeps the name: dark orange would be brown, light red would be pink.
    """

    hue: tuple[float, float]  # degrees; may pass below 0
    saturation: tuple[float, float]
    value: tuple[float, float]
    second: tuple[float, float]


COLOURS: dict[str, Colour] = {
    'red': Colour((-6, 5), (0.82, 1.0), (0.60, 0.95), (1.0, 0.48)),
    'orange': Colour((20, 31), (0.85, 1.0), (0.88, 1.0), (0.48, 1.0)),
    'yellow': Colour((50, 60), (0.75, 1.0), (0.86, 1.0), (0.35, 1.0)),
    'green': Colour((100, 142), (0.55, 1.0), (0.38, 0.85), (0.9, 0.5)),
    'cyan': Colour((173, 187), (0.65, 1.0), (0.75, 0.98), (0.45, 1.0)),
    'blue': Colour((214, 236), (0.65, 1.0), (0.50, 1.0), (0.9, 0.5)),
    'purple': Colour((266, 286), (0.50, 0.90), (0.40, 0.80), (0.55, 1.25)),
    'pink': Colour((318, 340), (0.35, 0.58), (0.92, 1.0), (0.45, 1.0)),
}
SHAPES: tuple[str, ...] = ('circle', 'ring', 'square', 'triangle', 'star', 'cross')
TEXTURES: tuple[str, ...] = ('plain', 'striped', 'dotted', 'checkered')

# Each colour once, each shape at least once: every word of a held-out name is known from others.
HELD_OUT: tuple[str, ...] = (
    'red star', 'orange circle', 'yellow square', 'green cross',
    'cyan triangle', 'blue ring', 'purple circle', 'pink triangle',
)  # fmt: skip
SEEN: tuple[str, ...] = tuple(
    name for name in (f'{c} {s}' for c in COLOURS for s in SHAPES) if name not in HELD_OUT
)
CATEGORIES: tuple[str, ...] = SEEN + HELD_OUT
LABELS: dict[str, int] = {name: i for i, name in enumerate(CATEGORIES)}
HELD_OUT_SET = frozenset(HELD_OUT)

BACKGROUNDS: tuple[str, ...] = ('smooth', 'cloudy', 'striped', 'tiled')
SIZE_WORDS: tuple[str, ...] = ('small', 'large')
NUMBERS: tuple[str, ...] = (
    'no', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine',
)  # fmt: skip

# Share of the textures within one category, most frequent first: together with the random order
# of the last three per category this gives the long tail of the LVIS files.
TEXTURE_SHARES: tuple[float, ...] = (0.62, 0.26, 0.095, 0.025)


def plural(noun: str) -> str:
    """'cross' -> 'crosses', 'star' -> 'stars'."""
    return noun + ('es' if noun.endswith('s') else 's')


@cache
def texture_order(label: int) -> tuple[str, ...]:
    """Textures of a category by falling frequency; plain always leads.

    Args:
        label: 0-based index into ``CATEGORIES``.
    """
    first, rest = TEXTURES[0], list(TEXTURES[1:])
    k = (label * 7 + label // 6) % 6  # one of the 6 orders of three textures, spread over labels
    a = rest.pop(k // 2)
    if k % 2:
        rest.reverse()
    return (first, a, *rest)


def lvis_name(texture: str, colour: str, shape: str) -> str:
    """Category name as LVIS writes them: underscores, some with a disambiguation in brackets."""
    tail = '_(shape)' if shape == 'cross' else ''
    return f'{texture}_{colour}_{shape}{tail}'


LVIS_NAMES: tuple[str, ...] = tuple(
    sorted(lvis_name(t, c, s) for t in TEXTURES for c in COLOURS for s in SHAPES)
)
LVIS_IDS: dict[str, int] = {name: i + 1 for i, name in enumerate(LVIS_NAMES)}
