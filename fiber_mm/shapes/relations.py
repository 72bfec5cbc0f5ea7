"""What holds between objects, each relation with a strict and a loose reading.

Strict: nobody would deny it. Loose: somebody might say it. A statement about an object is made
only where it holds strictly; a description counts as unambiguous only if no other object fits it
even loosely.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from .scene import LARGE, LOOSE_LARGE, LOOSE_SMALL, SMALL, Scene

LEFT, RIGHT, ABOVE, BELOW = 'left of', 'right of', 'above', 'below'
FRONT, BEHIND = 'in front of', 'behind'
INVERSE = {LEFT: RIGHT, RIGHT: LEFT, ABOVE: BELOW, BELOW: ABOVE, FRONT: BEHIND, BEHIND: FRONT}
POSITIONS = ('left', 'right', 'top', 'bottom', 'middle')
EXTREMES = ('largest', 'smallest', 'leftmost', 'rightmost', 'topmost', 'bottommost')

# Centre distance as a share of the image side from which a direction is clear.
_CLEAR, _SLANT = 0.08, 0.6
_EDGE, _LOOSE_EDGE = 0.36, 0.5  # 'on the left': centre left of this share of the width
_MIDDLE, _LOOSE_MIDDLE = 0.38, 0.27
_EXTREME_GAP, _SIZE_RATIO = 0.07, 1.3
_COVERED = 0.1  # share of an object that is covered before it is called 'behind'
_SEEN = 0.5  # share of the covered part where one sees what covers it


def _positions(x: float, y: float, edge: float, inner: float) -> frozenset[str]:
    """The position words that hold of a centre."""
    held = (x <= edge, x >= 1 - edge, y <= edge, y >= 1 - edge,
            inner <= x <= 1 - inner and inner <= y <= 1 - inner)  # fmt: skip
    return frozenset(itertools.compress(POSITIONS, held))


class View:
    """A scene with what the relations need computed once.

    Attributes:
        centres: of the visible boxes, in shares of width and height.
        extents: per object (smaller, larger) of the whole shape's side and the visible side, in
            pixels of a 256-pixel image.
        known: what has been found out about an object and is asked for again, text after text.
    """

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.objects = scene.objects
        self.centres: list[tuple[float, float]] = []
        self.extents: list[tuple[float, float]] = []
        for obj in scene.objects:
            x, y, w, h = obj.box
            self.centres.append(((x + w / 2) / scene.width, (y + h / 2) / scene.height))
            whole, seen = obj.size / scene.scale, max(w, h) / scene.scale
            self.extents.append((min(whole, seen), max(whole, seen)))
        self._size_words = [
            next((w for w in ('small', 'large') if self.has_size(i, w)), None)
            for i in range(len(scene.objects))
        ]
        self._strict = [_positions(x, y, _EDGE, _MIDDLE) for x, y in self.centres]
        self._loose = [_positions(x, y, _LOOSE_EDGE, _LOOSE_MIDDLE) for x, y in self.centres]
        self._having: dict[tuple[str, str], int] = {}
        for i, obj in enumerate(scene.objects):
            pairs = [('texture', obj.texture), ('colour', obj.colour), ('shape', obj.shape)]
            pairs += [('size', w) for w in ('small', 'large') if self.has_size(i, w, loose=True)]
            for pair in pairs:
                self._having[pair] = self._having.get(pair, 0) | 1 << i
        self._over = {(upper, lower): share for lower, upper, share, _ in scene.overlaps}
        self._clearly_over = {
            (upper, lower)
            for lower, upper, share, seen in scene.overlaps
            if share > _COVERED and seen >= _SEEN
        }
        self.known: dict[tuple, Any] = {}

    def having(self, attributes: dict[str, str]) -> int:
        """Bit set of the objects that have all the attributes, sizes read loosely.

        Args:
            attributes: values for some of size, texture, colour, shape.
        """
        left = (1 << len(self.objects)) - 1
        for pair in attributes.items():
            left &= self._having.get(pair, 0)
        return left

    def has_size(self, i: int, word: str, loose: bool = False) -> bool:
        """Whether 'small' or 'large' is true of an object.

        Strictly, the visible part must agree with the whole; loosely, one of them is enough.
        """
        low, high = self.extents[i]
        if word == 'small':
            return low <= LOOSE_SMALL if loose else high <= SMALL + 2
        if word == 'large':
            return high >= LOOSE_LARGE if loose else low >= LARGE
        raise ValueError(f'unknown size word {word!r}; known: small, large')

    def size_word(self, i: int) -> str | None:
        """'small', 'large', or None for anything between."""
        return self._size_words[i]

    def at_position(self, i: int, words: Sequence[str], loose: bool = False) -> bool:
        """Whether an object is on the named side(s) of the image, or in its middle."""
        if (self._loose if loose else self._strict)[i].issuperset(words):
            return True
        for word in words:
            if word not in POSITIONS:
                raise ValueError(f'unknown position {word!r}; known: {", ".join(POSITIONS)}')
        return False

    def positions(self, i: int) -> list[str]:
        """All position words that clearly hold."""
        return [w for w in POSITIONS if w in self._strict[i]]

    def holds(self, a: int, relation: str, b: int, loose: bool = False) -> bool:
        """Whether object ``a`` stands in a relation to object ``b``."""
        if relation == BEHIND:
            a, relation, b = b, FRONT, a
        if relation == FRONT:
            return (a, b) in (self._over if loose else self._clearly_over)
        (ax, ay), (bx, by) = self.centres[a], self.centres[b]
        if relation == LEFT:
            along, across = bx - ax, by - ay
        elif relation == RIGHT:
            along, across = ax - bx, by - ay
        elif relation == ABOVE:
            along, across = by - ay, bx - ax
        elif relation == BELOW:
            along, across = ay - by, bx - ax
        else:
            raise ValueError(f'unknown relation {relation!r}; known: {", ".join(INVERSE)}')
        if loose:
            return along > 0
        return along >= _CLEAR and abs(across) * _SLANT <= along

    def is_extreme(self, index: int, word: str, among: Sequence[int]) -> bool:
        """Whether an object is by a clear margin the largest, leftmost, ... of a group."""
        rest = [i for i in among if i != index]
        low, high = self.extents[index]
        if word == 'largest':
            return all(low >= _SIZE_RATIO * self.extents[i][1] for i in rest)
        if word == 'smallest':
            return all(high * _SIZE_RATIO <= self.extents[i][0] for i in rest)
        x, y = self.centres[index]
        if word == 'leftmost':
            return all(x + _EXTREME_GAP <= self.centres[i][0] for i in rest)
        if word == 'rightmost':
            return all(x - _EXTREME_GAP >= self.centres[i][0] for i in rest)
        if word == 'topmost':
            return all(y + _EXTREME_GAP <= self.centres[i][1] for i in rest)
        if word == 'bottommost':
            return all(y - _EXTREME_GAP >= self.centres[i][1] for i in rest)
        raise ValueError(f'unknown extreme {word!r}; known: {", ".join(EXTREMES)}')

    def all_relations(self) -> list[list]:
        """``[subject, relation, object]`` for left of, above, in front of; inverses follow."""
        n = len(self.objects)
        out = []
        for a in range(n):
            ax, ay = self.centres[a]
            for b in range(n):
                if a == b:
                    continue
                bx, by = self.centres[b]
                # what cannot hold is not asked for
                if bx - ax >= _CLEAR and self.holds(a, LEFT, b):
                    out.append([a, LEFT, b])
                if by - ay >= _CLEAR and self.holds(a, ABOVE, b):
                    out.append([a, ABOVE, b])
                if self.holds(a, FRONT, b):
                    out.append([a, FRONT, b])
        return out
