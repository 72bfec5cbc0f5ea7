"""What holds between objects, each relation with a strict and a loose reading.

Strict: nobody would deny it. Loose: somebody might say it. A statement about an object is made
only where it holds strictly; a description counts as unambiguous only if no other object fits it
even loosely.
"""

from __future__ import annotations

from typing import Sequence

from .scene import LARGE, LOOSE_LARGE, LOOSE_SMALL, SMALL, Scene, ShapeObject

LEFT, RIGHT, ABOVE, BELOW = 'left of', 'right of', 'above', 'below'
FRONT, BEHIND = 'in front of', 'behind'
INVERSE = {LEFT: RIGHT, RIGHT: LEFT, ABOVE: BELOW, BELOW: ABOVE, FRONT: BEHIND, BEHIND: FRONT}
POSITIONS = ('left', 'right', 'top', 'bottom', 'middle')
EXTREMES = ('largest', 'smallest', 'leftmost', 'rightmost', 'topmost', 'bottommost')

# Centre distance as a share of the image side from which a direction is clear.
_CLEAR, _SLANT = 0.08, 0.6
_EDGE, _LOOSE_EDGE = 0.36, 0.5  # 'on the left': centre left of this share of the width
_EXTREME_GAP, _SIZE_RATIO = 0.07, 1.3


def centre(obj: ShapeObject, scene: Scene) -> tuple[float, float]:
    """Centre of the visible box in shares of width and height."""
    x, y, w, h = obj.box
    return (x + w / 2) / scene.width, (y + h / 2) / scene.height


def side(obj: ShapeObject) -> int:
    """Longer side of the visible box in pixels."""
    return max(obj.box[2], obj.box[3])


def has_size(obj: ShapeObject, word: str, scene: Scene, loose: bool = False) -> bool:
    """Whether 'small' or 'large' is true of an object.

    Strictly, the visible part must agree with the whole; loosely, one of them is enough.
    """
    whole, seen = obj.size / scene.scale, side(obj) / scene.scale
    if word == 'small':
        return min(whole, seen) <= LOOSE_SMALL if loose else max(whole, seen) <= SMALL + 2
    if word == 'large':
        return max(whole, seen) >= LOOSE_LARGE if loose else min(whole, seen) >= LARGE
    raise ValueError(f'unknown size word {word!r}; known: small, large')


def at_position(obj: ShapeObject, words: Sequence[str], scene: Scene, loose: bool = False) -> bool:
    """Whether an object is on the named side(s) of the image, or in its middle."""
    x, y = centre(obj, scene)
    edge = _LOOSE_EDGE if loose else _EDGE
    inner = 0.27 if loose else 0.38
    holds = {
        'left': x <= edge,
        'right': x >= 1 - edge,
        'top': y <= edge,
        'bottom': y >= 1 - edge,
        'middle': inner <= x <= 1 - inner and inner <= y <= 1 - inner,
    }
    return all(holds[w] for w in words)


def holds(a: int, relation: str, b: int, scene: Scene, loose: bool = False) -> bool:
    """Whether object ``a`` stands in a relation to object ``b`` (indices into the scene)."""
    if relation in (FRONT, BEHIND):
        if relation == BEHIND:
            a, b = b, a
        pair = [b, a]
        return any(row[:2] == pair for row in scene.overlaps if loose or row[2] > 0.1)
    if relation not in INVERSE:
        raise ValueError(f'unknown relation {relation!r}; known: {", ".join(INVERSE)}')
    (ax, ay), (bx, by) = centre(scene.objects[a], scene), centre(scene.objects[b], scene)
    dx, dy = bx - ax, by - ay
    along, across = {LEFT: (dx, dy), RIGHT: (-dx, dy), ABOVE: (dy, dx), BELOW: (-dy, dx)}[relation]
    if loose:
        return along > 0
    return along >= _CLEAR and abs(across) * _SLANT <= along


def is_extreme(index: int, word: str, among: Sequence[int], scene: Scene) -> bool:
    """Whether an object is by a clear margin the largest, leftmost, ... of a group."""
    obj = scene.objects[index]
    rest = [scene.objects[i] for i in among if i != index]
    if word == 'largest':
        return all(min(obj.size, side(obj)) >= _SIZE_RATIO * max(o.size, side(o)) for o in rest)
    if word == 'smallest':
        return all(max(obj.size, side(obj)) * _SIZE_RATIO <= min(o.size, side(o)) for o in rest)
    axis, sign = {'leftmost': (0, 1), 'rightmost': (0, -1),
                  'topmost': (1, 1), 'bottommost': (1, -1)}[word]  # fmt: skip
    mine = sign * centre(obj, scene)[axis]
    return all(mine + _EXTREME_GAP <= sign * centre(o, scene)[axis] for o in rest)


def all_relations(scene: Scene) -> list[list]:
    """``[subject, relation, object]`` for left of, above, in front of; inverses are implied."""
    n = len(scene.objects)
    return [
        [a, relation, b]
        for a in range(n)
        for b in range(n)
        if a != b
        for relation in (LEFT, ABOVE, FRONT)
        if holds(a, relation, b, scene)
    ]
