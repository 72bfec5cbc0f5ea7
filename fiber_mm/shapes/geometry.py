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
        seen: mask pixels inside the image.
        outline: the contours it was filled from.
    """

    slices: tuple[slice, slice]
    alpha: np.ndarray
    mask: np.ndarray
    total: int
    seen: int
    outline: list[np.ndarray]


def _regular(n: int, radius: float = 1.0) -> np.ndarray:
    turn = 2 * math.pi * np.arange(n) / n - math.pi / 2
    return radius * np.stack([np.cos(turn), np.sin(turn)], 1)


_CIRCLE = _regular(48)
_SQUARE = _regular(4)
_TRIANGLE = _regular(3)
_STAR = _regular(10)
# A cross whose arms are 2 a wide: _ARM * a + _REACH
_ARM = np.array([(-1, 0), (1, 0), (1, -1), (0, -1), (0, 1), (1, 1),
                 (1, 0), (-1, 0), (-1, 1), (0, 1), (0, -1), (-1, -1)], np.float64)  # fmt: skip
_REACH = np.array([(0, -1), (0, -1), (0, 0), (1, 0), (1, 0), (0, 0),
                   (0, 1), (0, 1), (0, 0), (-1, 0), (-1, 0), (0, 0)], np.float64)  # fmt: skip


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
        star = _STAR.copy()
        star[1::2] *= 0.38 + 0.1 * variant
        return [star]
    if shape == 'cross':
        return [_ARM * (0.26 + 0.12 * variant) + _REACH]
    raise ValueError(f'unknown shape {shape!r}; known: circle, ring, square, triangle, star, cross')


Bounds = tuple[float, float, float, float]  # x0, y0, x1, y1


def _bounds(points: np.ndarray) -> Bounds:
    return (*np.minimum.reduce(points).tolist(), *np.maximum.reduce(points).tolist())


def contours(obj: Outlined) -> list[np.ndarray]:
    """Outline in continuous image coordinates (pixel i covers [i, i + 1)).

    Args:
        obj: the object; ``size`` is the longer side of the outline's bounding box.
    Returns: list of (K, 2) arrays x, y; the second one, if any, is a hole.
    """
    return _place(obj)[0]


def _place(obj: Outlined) -> tuple[list[np.ndarray], Bounds]:
    """The contours, and the bounds of the first."""
    parts = _unit_contours(obj.shape, obj.variant)
    turn = math.radians(obj.angle)
    c, s = math.cos(turn), math.sin(turn)
    matrix = np.array([[c, s], [-s * obj.aspect, c * obj.aspect]])
    parts = [p.dot(matrix) for p in parts]  # half the time of @ for so few points
    x0, y0, x1, y1 = _bounds(parts[0])
    scale = obj.size / max(x1 - x0, y1 - y0)
    x, y = obj.centre
    dx, dy = x - scale * (x0 + x1) / 2, y - scale * (y0 + y1) / 2
    shift = np.array((dx, dy))
    bounds = (x0 * scale + dx, y0 * scale + dy, x1 * scale + dx, y1 * scale + dy)
    return [p * scale + shift for p in parts], bounds


def _fill(parts: list[np.ndarray], bounds: Bounds, size: float, width: int, height: int) -> Patch:
    x0, y0, x1, y1 = bounds
    x0, y0 = math.floor(x0), math.floor(y0)
    w, h = math.ceil(x1) - x0, math.ceil(y1) - y0
    # Supersampling, not OpenCV's anti-aliasing: that one widens shapes by half a pixel.
    k = 4 if size < 48 else 2
    big = np.zeros((h * k, w * k), np.uint8)
    step = k << _SHIFT
    # - 0.5: OpenCV counts from pixel centres; the other half rounds
    half = 0.5 - (1 << _SHIFT) / 2
    offset = np.array((half - x0 * step, half - y0 * step))
    fixed = [(p * step + offset).astype(np.int32) for p in parts]
    cv2.fillPoly(big, fixed, 255, cv2.LINE_8, _SHIFT)
    alpha = cv2.resize(big, (w, h), interpolation=cv2.INTER_AREA)
    mask = alpha >= 128
    total = seen = cv2.countNonZero(mask.view(np.uint8))
    left, top = max(0, -x0), max(0, -y0)
    right, bottom = min(w, width - x0), min(h, height - y0)
    if left or top or right < w or bottom < h:
        right, bottom = max(right, left), max(bottom, top)
        alpha = np.ascontiguousarray(alpha[top:bottom, left:right])
        mask = np.ascontiguousarray(mask[top:bottom, left:right])
        seen = cv2.countNonZero(mask.view(np.uint8)) if mask.size else 0
    rows, cols = slice(y0 + top, y0 + bottom), slice(x0 + left, x0 + right)
    return Patch((rows, cols), alpha, mask, total, seen, parts)


def rasterise(obj: Outlined, width: int, height: int) -> Patch:
    """Mask of an object in an image of the given size."""
    parts, bounds = _place(obj)
    return _fill(parts, bounds, obj.size, width, height)


def hole_patch(ring: Patch, width: int, height: int) -> Patch:
    """Mask of a ring's hole."""
    hole = ring.outline[1:]
    return _fill(hole, _bounds(hole[0]), 0.0, width, height)
