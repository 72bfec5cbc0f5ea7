"""Boxes, areas and segmentations from the masks of a filled canvas."""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from .geometry import Patch
from .relations import all_relations
from .scene import Canvas, Scene, ShapeObject


def _segmentation(obj: ShapeObject, index: int, canvas: Canvas) -> Any:
    """A polygon where that is exact, else run lengths (holes, occlusion, image border)."""
    patch = canvas.patches[index]
    if patch.whole and obj.shape != 'ring' and obj.area == patch.total:
        return [patch.outline[0].round(1).reshape(-1).tolist()]
    rle = coco_mask.encode((canvas.owner == index + 1).view(np.uint8))
    return dict(size=list(rle['size']), counts=rle['counts'].decode())


def _overlap(a: Patch, b: Patch) -> int:
    """Number of pixels that two masks share."""
    (ay, ax), (by, bx) = a.slices, b.slices
    y0, y1 = max(ay.start, by.start), min(ay.stop, by.stop)
    x0, x1 = max(ax.start, bx.start), min(ax.stop, bx.stop)
    if y0 >= y1 or x0 >= x1:
        return 0
    first = a.mask[y0 - ay.start:y1 - ay.start, x0 - ax.start:x1 - ax.start]
    second = b.mask[y0 - by.start:y1 - by.start, x0 - bx.start:x1 - bx.start]
    return int(np.count_nonzero(first & second))


def _overlaps(canvas: Canvas) -> list[list[Any]]:
    out = []
    for upper, patch in enumerate(canvas.patches):
        for lower in range(upper):
            shared = _overlap(canvas.patches[lower], patch)
            if shared:
                out.append([lower, upper, round(shared / canvas.patches[lower].total, 3)])
    return out


def annotate(scene: Scene, canvas: Canvas) -> None:
    """Fill in ``box``, ``area``, ``visible``, ``inside`` and ``segmentation`` of every object, and ``overlaps``."""
    for i, obj in enumerate(scene.objects):
        patch = canvas.patches[i]
        rows, cols = patch.slices
        mask = canvas.owner[rows, cols] == i + 1
        ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        x, y = cols.start + int(xs[0]), rows.start + int(ys[0])
        obj.box = (x, y, int(xs[-1] - xs[0]) + 1, int(ys[-1] - ys[0]) + 1)
        obj.area = int(np.count_nonzero(mask))
        obj.visible = round(obj.area / patch.total, 3)
        obj.inside = round(int(np.count_nonzero(patch.mask)) / patch.total, 3)
        obj.segmentation = _segmentation(obj, i, canvas)
    scene.overlaps = _overlaps(canvas)
    scene.relations = all_relations(scene)
