"""Scene graphs: what is in an image, and the drawing of one at random.

A scene is complete: `fiber_mm.shapes.render` draws it without further randomness, so that a
changed copy of a scene (one object moved, recoloured, removed) gives the matching changed image.
"""

from __future__ import annotations

import colorsys
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np

from . import vocabulary as V
from .geometry import Patch, hole_patch, rasterise

T = TypeVar('T')

MIN_SIDE, MAX_SIDE = 10.0, 130.0  # pixels of a 256-pixel image
MIN_COUNT, MAX_COUNT = 3, 9
OVERLAPPING = 0.45  # share of the objects that are tried near or on top of another one
MIN_VISIBLE = 0.4  # of the whole shape, parts outside the image counted as hidden
MIN_VISIBLE_SMALL = 0.7  # a shape of under 20 pixels with less than this has no sure name
MIN_INSIDE = 0.6  # share of the shape that lies inside the image
MIN_HOLE = 0.5  # a ring whose hole is filled would be a circle
MIN_TEXTURED = 24.0  # smaller shapes are always plain: a pattern could not be seen
SMALL, LARGE = 22.0, 64.0  # sides up to / from which 'small' / 'large' is true
LOOSE_SMALL, LOOSE_LARGE = 34.0, 46.0  # sides for which a reader might still say so


@dataclass
class ShapeObject:
    """One shape.

    Drawing order is list order: later objects cover earlier ones. ``centre``, ``size`` and
    ``angle`` describe the whole shape, ``box`` (x, y, w, h; pixels, far edge exclusive), ``area``
    (pixels) and ``visible`` (share) its visible part.
    """

    colour: str
    shape: str
    texture: str
    centre: tuple[float, float]  # of the whole shape's bounding box, pixels
    size: float  # longer side of that box, pixels
    angle: float  # degrees
    variant: float  # in [0, 1): ring width, star depth, arm width
    aspect: float  # mild foreshortening
    rgb: tuple[int, int, int]
    second_rgb: tuple[int, int, int]
    period: float  # of the texture, pixels
    texture_angle: float  # degrees
    shade: tuple[float, float]  # relative brightness change over the box along x and y
    shadow: float  # darkness of the drop shadow, 0 = none
    outline: float  # darkness of the contour, 0 = none
    box: tuple[int, int, int, int] = (0, 0, 0, 0)
    area: int = 0
    visible: float = 1.0
    inside: float = 1.0
    segmentation: Any = None
    size_word: str | None = None  # 'small', 'large', None for anything between
    position: list[str] = field(default_factory=list)  # of left, right, top, bottom, middle

    @property
    def category(self) -> str:
        """Class name, such as 'red circle'."""
        return f'{self.colour} {self.shape}'

    @property
    def held_out(self) -> bool:
        """Whether the class never occurs in training splits."""
        return self.category in V.HELD_OUT_SET


@dataclass
class Scene:
    """One image: objects, surroundings, and everything said about it.

    ``overlaps`` holds ``[lower, upper, share, seen]``: how much of the lower object the upper
    one's outline covers, and how much of that no third object covers in turn. ``relations`` holds
    ``[subject, relation, object]`` index triples that are clearly true (see
    `fiber_mm.shapes.relations`); ``captions`` and ``expressions`` are written by
    `fiber_mm.shapes.language`.
    """

    image_id: int
    split: str
    index: int
    width: int
    height: int
    background: dict[str, Any]
    effects: dict[str, Any]
    objects: list[ShapeObject] = field(default_factory=list)
    overlaps: list[list[Any]] = field(default_factory=list)
    relations: list[list[Any]] = field(default_factory=list)
    captions: list[dict[str, Any]] = field(default_factory=list)
    expressions: list[dict[str, Any]] = field(default_factory=list)

    @property
    def file_name(self) -> str:
        """Twelve digits, as in COCO."""
        return f'{self.image_id:012d}.jpg'

    @property
    def scale(self) -> float:
        """Image side relative to 256 pixels; all pixel thresholds are multiplied by it."""
        return min(self.width, self.height) / 256

    def to_dict(self) -> dict[str, Any]:
        """For JSON, derived names included; shares its containers with the scene."""
        out = dict(vars(self), file_name=self.file_name)
        out['objects'] = [
            dict(vars(o), category=o.category, held_out=o.held_out) for o in self.objects
        ]
        for row in out['objects']:
            del row['segmentation']  # in the COCO file; `rasterise` and drawing order give it too
        return out


_TUPLES = ('centre', 'rgb', 'second_rgb', 'shade', 'box')


def scene_from_dict(data: dict[str, Any]) -> Scene:
    """Inverse of `Scene.to_dict`."""
    data = {k: v for k, v in data.items() if k != 'file_name'}
    names = set(ShapeObject.__dataclass_fields__)
    data['objects'] = [
        ShapeObject(**{k: tuple(v) if k in _TUPLES else v for k, v in row.items() if k in names})
        for row in data['objects']
    ]
    return Scene(**data)


def is_train(split: str) -> bool:
    """Whether held-out classes must not occur in this split."""
    return split.startswith('train')


def image_id_of(split: str, index: int) -> int:
    """Image id, distinct over splits and independent of how many images a split has."""
    known = {'train': 0, 'val': 1, 'test': 2}
    base = known.get(split)
    if base is None:
        base = 3 + zlib.crc32(split.encode()) % 100_000
    return base * 1_000_000 + index + 1


def image_rng(seed: int, split: str, index: int) -> np.random.Generator:
    """Generator of one image; depends on nothing but its arguments."""
    key = (zlib.crc32(split.encode()), index)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def pick(rng: np.random.Generator, items: Sequence[T]) -> T:
    """A uniform choice, without the cost of ``Generator.choice``."""
    return items[int(rng.random() * len(items))]


def _sample_rgb(
    colour: V.Colour, hue: float, saturation: float, value: float
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """First and second tone; the numbers in [0, 1) say where in the colour's ranges."""
    h = (colour.hue[0] + (colour.hue[1] - colour.hue[0]) * hue) % 360 / 360
    s = colour.saturation[0] + (colour.saturation[1] - colour.saturation[0]) * saturation
    v = colour.value[0] + (colour.value[1] - colour.value[0]) * value
    return _rgb(h, s, v), _rgb(h, min(s * colour.second[0], 1.0), min(v * colour.second[1], 1.0))


def _rgb(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    r, g, b = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * r), round(255 * g), round(255 * b)


def _sample_class(
    draw: float, choice: float, other: ShapeObject | None, names: tuple[str, ...]
) -> str:
    """Every other object is a look-alike of one that is there already."""
    if other is not None and draw < 0.12:  # the same class again
        return other.category
    if other is not None and draw < 0.32:  # same shape, other colour
        names = _look_alikes(names, ' ' + other.shape)
    elif other is not None and draw < 0.5:  # same colour, other shape
        names = _look_alikes(names, other.colour + ' ')
    return names[int(choice * len(names))]


@lru_cache(maxsize=64)
def _look_alikes(names: tuple[str, ...], part: str) -> tuple[str, ...]:
    return tuple(name for name in names if part in name)


def _sample_texture(name: str, draw: float) -> str:
    total = 0.0
    for texture, share in zip(V.texture_order(V.LABELS[name]), V.TEXTURE_SHARES):
        total += share
        if draw < total:
            return texture
    return texture


def _sample_object(
    rng: np.random.Generator, scene: Scene, names: tuple[str, ...], shrink: float
) -> ShapeObject:
    scale = scene.scale
    u = rng.random(24).tolist()  # one call for all draws: twenty single ones cost more
    other = scene.objects[int(u[0] * len(scene.objects))] if scene.objects else None
    name = _sample_class(u[1], u[2], other, names)
    colour, shape = name.split(' ')
    size = max(MIN_SIDE, shrink * MIN_SIDE * (MAX_SIDE / MIN_SIDE) ** u[3]) * scale
    rgb, second = _sample_rgb(V.COLOURS[colour], u[4], u[5], u[6])
    margin = 0.3 * size  # centres may come this near to the border
    x = margin + (scene.width - 2 * margin) * u[8]
    y = margin + (scene.height - 2 * margin) * u[9]
    if other is not None and u[21] < OVERLAPPING:
        reach = (0.25 + 0.75 * u[22]) * (size + other.size) / 2
        turn = 2 * math.pi * u[23]
        x = min(max(other.centre[0] + reach * math.cos(turn), margin), scene.width - margin)
        y = min(max(other.centre[1] + reach * math.sin(turn), margin), scene.height - margin)
    return ShapeObject(
        colour=colour,
        shape=shape,
        texture=_sample_texture(name, u[7]) if size >= MIN_TEXTURED * scale else 'plain',
        centre=(round(x, 2), round(y, 2)),
        size=round(size, 2),
        angle=round(360 * u[10], 1),
        variant=round(u[11], 3),
        aspect=round(0.86 + 0.14 * u[12], 3),
        rgb=rgb,
        second_rgb=second,
        period=round(max(5.0, size * (0.16 + 0.12 * u[13])), 2),
        texture_angle=round(180 * u[14], 1),
        shade=(round(0.44 * u[15] - 0.22, 3), round(0.44 * u[16] - 0.22, 3)),
        shadow=round(0.15 + 0.3 * u[17], 2) if u[18] < 0.35 else 0.0,
        outline=round(0.2 + 0.3 * u[19], 2) if u[20] < 0.25 else 0.0,
    )


def _sample_background(rng: np.random.Generator) -> dict[str, Any]:
    """Muted colours (low saturation), so that an object's colour keeps its name in front of it."""
    u = rng.random(20).tolist()
    palette = [list(_rgb(u[i], 0.34 * u[i + 1], 0.12 + 0.8 * u[i + 2])) for i in (0, 3, 6)]
    return dict(
        kind=V.BACKGROUNDS[int(u[9] * len(V.BACKGROUNDS))],
        palette=palette,
        bank=int(u[10] * (1 << 16)),
        offset=[int(u[11] * (1 << 12)), int(u[12] * (1 << 12))],
        angle=round(180 * u[13], 1),
        grain=round(0.5 * u[14], 2),
        lines=int(9 * u[15]) if u[16] < 0.6 else 0,
        blobs=1 + int(8 * u[17]) if u[18] < 0.6 else 0,
        clutter_seed=int(u[19] * (1 << 31)),
    )


def _sample_effects(rng: np.random.Generator) -> dict[str, Any]:
    u = rng.random(14).tolist()
    return dict(
        # rarely brighter than drawn: channels that overflow would change hues
        gain=round(0.8 + 0.27 * u[0], 3),
        contrast=round(0.76 + 0.26 * u[1], 3),
        tint=[round(0.95 + 0.1 * v, 3) for v in u[2:5]],
        light=int(u[5] * (1 << 16)),
        blur=round(0.4 + 0.5 * u[6], 2) if u[7] < 0.4 else 0.0,
        noise=round(0.12 * u[8], 3),
        noise_offset=[int(u[9] * (1 << 12)), int(u[10] * (1 << 12))],
        wires=1 + int(3 * u[11]) if u[12] < 0.2 else 0,
        quality=62 + int(34 * u[13]),
    )


class Canvas:
    """Which object owns each pixel while a scene is filled or drawn."""

    def __init__(self, width: int, height: int) -> None:
        # 0 = background, i + 1 = object i; column-major, as run-length encoding wants it
        self.owner = np.zeros((height, width), np.uint8, order='F')
        self.patches: list[Patch] = []
        self.visible: list[int] = []
        self._holes: dict[int, tuple[Patch, int]] = {}

    def covered(self, patch: Patch) -> list[int]:
        """Pixels that a patch would take from each object; empty if from none."""
        under = self.owner[patch.slices]
        if not self.patches or not under.any():
            return []
        return np.bincount(under[patch.mask], minlength=len(self.patches) + 1)[1:].tolist()

    def hole_left(self, index: int, patch: Patch) -> float:
        """Share of a ring's hole that stays open when ``patch`` is put on top."""
        hole, total = self._holes[index]
        ys, xs = patch.slices
        hy, hx = hole.slices
        y0, y1 = max(ys.start, hy.start), min(ys.stop, hy.stop)
        x0, x1 = max(xs.start, hx.start), min(xs.stop, hx.stop)
        if y0 >= y1 or x0 >= x1:
            return 1.0
        # open: background and what lies under the ring
        open_ = hole.mask & (self.owner[hole.slices] <= index + 1)
        a = open_[y0 - hy.start : y1 - hy.start, x0 - hx.start : x1 - hx.start]
        b = patch.mask[y0 - ys.start : y1 - ys.start, x0 - xs.start : x1 - xs.start]
        left = np.count_nonzero(open_) - np.count_nonzero(a & b)
        return left / max(total, 1)

    def add(self, obj: ShapeObject, patch: Patch, covered: Sequence[int] | None = None) -> None:
        """Put a patch on top of all others.

        Args:
            obj: what it is of.
            patch: its mask.
            covered: result of `covered` for this patch if it is at hand already.
        """
        for i, lost in enumerate(self.covered(patch) if covered is None else covered):
            self.visible[i] -= lost
        self.patches.append(patch)
        self.visible.append(patch.seen)
        if obj.shape == 'ring':
            hole = hole_patch(patch, self.owner.shape[1], self.owner.shape[0])
            self._holes[len(self.patches) - 1] = (hole, hole.seen)
        np.copyto(self.owner[patch.slices], len(self.patches), where=patch.mask)


def _add_if_fits(scene: Scene, canvas: Canvas, obj: ShapeObject, patch: Patch) -> bool:
    """Take a new object if every object, this one included, keeps a definite name."""
    small = 20 * scene.scale
    if patch.seen < (MIN_VISIBLE_SMALL if obj.size < small else MIN_INSIDE) * patch.total:
        return False
    counts = canvas.covered(patch)
    for i, other in enumerate(scene.objects):
        if counts and counts[i]:
            if other.colour == obj.colour:  # their common outline could not be told apart
                return False
            need = MIN_VISIBLE_SMALL if other.size < small else MIN_VISIBLE + 0.02
            if canvas.visible[i] - counts[i] < need * canvas.patches[i].total:
                return False
        if other.shape == 'ring' and canvas.hole_left(i, patch) < MIN_HOLE:
            return False
    canvas.add(obj, patch, counts)
    scene.objects.append(obj)
    return True


def sample_scene(
    seed: int, split: str, index: int, image_size: int
) -> tuple[Scene, Canvas, np.random.Generator]:
    """Draw a scene graph.

    Args:
        seed, split, index: name the scene; the same three give the same scene.
        image_size: side of the square image in pixels.
    Returns: the scene without texts; its canvas (masks, for rendering and annotation); the
        image's generator, to be used for the texts.
    """
    rng = image_rng(seed, split, index)
    scene = Scene(
        image_id=image_id_of(split, index),
        split=split,
        index=index,
        width=image_size,
        height=image_size,
        background=_sample_background(rng),
        effects=_sample_effects(rng),
    )
    canvas = Canvas(image_size, image_size)
    names = V.SEEN if is_train(split) else V.CATEGORIES
    wanted = int(rng.integers(MIN_COUNT, MAX_COUNT + 1))
    attempts = 0
    while len(scene.objects) < wanted and (attempts < 40 or len(scene.objects) < MIN_COUNT):
        shrink = 0.85 ** max(0, attempts - 8)
        obj = _sample_object(rng, scene, names, shrink)
        patch = rasterise(obj, scene.width, scene.height)
        attempts += 1
        _add_if_fits(scene, canvas, obj, patch)
    return scene, canvas, rng
