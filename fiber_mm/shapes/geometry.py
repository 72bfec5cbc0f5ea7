"""Outlines of the shapes and their masks."""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import cv2
import numpy as np

_SHIFT = 4  # fractional bits of the coordinates that OpenCV takes


class Outlined(Protocol):
    """What an outline needs to know of an object."""

    shape: str
    centre: tuple[float, float]
    size: float
    angle: float
    variant: float
    aspect: float


class Patch(NamedTuple):
    """A shape's coverage of the image, cut to its bounding box.

    Attributes:
        slices: rows and columns of the image that the patch covers.
        alpha: (h, w) uint8, coverage of each pixel.
        mask: (h, w) bool, pixels that count as the shape's.
        total: mask pixels of the whole shape, those outside the image included.
        whole: whether all of the shape lies inside the image.
        outline: the contours it was filled from.
    """

    slices: tuple[slice, slice]
    alpha: np.ndarray
    mask: np.ndarray
    total: int
    whole: bool
    outline: list[np.ndarray]


def _regular(n: int, radius: float = 1.0) -> np.ndarray:
    turn = 2 * math.pi * np.arange(n) / n - math.pi / 2
    return radius * np.stack([np.cos(turn), np.sin(turn)], 1)


_CIRCLE = _regular(48)
_SQUARE = _regular(4)
_TRIANGLE = _regular(3)
_STAR = _regular(10)


def _unit_contours(shape: str, variant: float) -> list[np.ndarray]:
    """Contours of a shape of radius about 1; with two, the second is the hole."""
    if shape == 'circle':
        return [_CIRCLE]
    if shape == 'ring':
        return [_CIRCLE, _CIRCLE * (0.52 + 0.14 * variant)]
    if shape == 'square':
        return [_SQUARE]
    if shape == 'triangle':
        return [_TRIANGLE]
    if shape == 'star':
        depth = np.ones((10, 1))
        depth[1::2] = 0.38 + 0.1 * variant
        return [_STAR * depth]
    if shape == 'cross':
        a = 0.26 + 0.12 * variant  # half the width of an arm
        x = np.array([-a, a, a, 1, 1, a, a, -a, -a, -1, -1, -a])
        y = np.array([-1, -1, -a, -a, a, a, 1, 1, a, a, -a, -a])
        return [np.stack([x, y], 1)]
    raise ValueError(f'unknown shape {shape!r}; known: circle, ring, square, triangle, star, cross')


def contours(obj: Outlined) -> list[np.ndarray]:
    """Outline in continuous image coordinates (pixel i covers [i, i + 1)).

    Args:
        obj: the object; ``size`` is the longer side of the outline's bounding box.
    Returns: list of (K, 2) arrays x, y; the second one, if any, is a hole.
    """
    parts = _unit_contours(obj.shape, obj.variant)
    turn = math.radians(obj.angle)
    c, s = math.cos(turn), math.sin(turn)
    matrix = np.array([[c, s], [-s * obj.aspect, c * obj.aspect]])
    parts = [p @ matrix for p in parts]
    low, high = parts[0].min(0), parts[0].max(0)
    scale = obj.size / (high - low).max()
    shift = np.asarray(obj.centre) - scale * (low + high) / 2
    return [p * scale + shift for p in parts]


def _fill(parts: list[np.ndarray], size: float, width: int, height: int) -> Patch:
    low, high = parts[0].min(0), parts[0].max(0)
    x0, y0 = int(math.floor(low[0])), int(math.floor(low[1]))
    w, h = int(math.ceil(high[0])) - x0, int(math.ceil(high[1])) - y0
    # Supersampling, not OpenCV's anti-aliasing: that one widens shapes by half a pixel.
    k = 4 if size < 48 else 2
    big = np.zeros((h * k, w * k), np.uint8)
    fixed = [
        np.round(((p - (x0, y0)) * k - 0.5) * (1 << _SHIFT)).astype(np.int32) for p in parts
    ]
    cv2.fillPoly(big, fixed, 255, cv2.LINE_8, _SHIFT)
    alpha = cv2.resize(big, (w, h), interpolation=cv2.INTER_AREA)
    mask = alpha >= 128
    total = int(np.count_nonzero(mask))
    left, top = max(0, -x0), max(0, -y0)
    right, bottom = min(w, width - x0), min(h, height - y0)
    whole = left == 0 and top == 0 and right == w and bottom == h
    if not whole:
        right, bottom = max(right, left), max(bottom, top)
        alpha, mask = alpha[top:bottom, left:right], mask[top:bottom, left:right]
    rows, cols = slice(y0 + top, y0 + bottom), slice(x0 + left, x0 + right)
    return Patch((rows, cols), alpha, mask, total, whole, parts)


def rasterise(obj: Outlined, width: int, height: int) -> Patch:
    """Mask of an object in an image of the given size."""
    return _fill(contours(obj), obj.size, width, height)


def hole_patch(ring: Patch, width: int, height: int) -> Patch:
    """Mask of a ring's hole."""
    return _fill(ring.outline[1:], 0.0, width, height)
