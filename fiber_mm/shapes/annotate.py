"""Boxes, areas and segmentations from the masks of a filled canvas."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from .geometry import Patch
from .relations import View
from .scene import Canvas, Scene, ShapeObject


def _segmentation(obj: ShapeObject, index: int, canvas: Canvas) -> Any:
    """A polygon where that is exact, else run lengths (holes, occlusion, image border)."""
    patch = canvas.patches[index]
    if obj.shape != 'ring' and obj.area == patch.total:
        return [patch.outline[0].round(1).reshape(-1).tolist()]
    rle = coco_mask.encode((canvas.owner == index + 1).view(np.uint8))
    return dict(size=list(rle['size']), counts=rle['counts'].decode())


def _overlap(a: Patch, b: Patch, owner: np.ndarray, number: int) -> tuple[int, int]:
    """Pixels that two masks share, whose boxes overlap, and how many of them ``number`` owns."""
    (ay, ax), (by, bx) = a.slices, b.slices
    y0, y1 = max(ay.start, by.start), min(ay.stop, by.stop)
    x0, x1 = max(ax.start, bx.start), min(ax.stop, bx.stop)
    first = a.mask[y0 - ay.start : y1 - ay.start, x0 - ax.start : x1 - ax.start]
    second = b.mask[y0 - by.start : y1 - by.start, x0 - bx.start : x1 - bx.start]
    shared = first & second
    count = int(np.count_nonzero(shared))
    seen = np.count_nonzero(shared & (owner[y0:y1, x0:x1] == number)) if count else 0
    return count, int(seen)


def _overlaps(canvas: Canvas) -> list[list[Any]]:
    patches, out = canvas.patches, []
    boxes = [(y.start, y.stop, x.start, x.stop) for y, x in (p.slices for p in patches)]
    for upper, (top, bottom, left, right) in enumerate(boxes):
        for lower, (y0, y1, x0, x1) in enumerate(boxes[:upper]):
            if y0 < bottom and top < y1 and x0 < right and left < x1:
                shared, seen = _overlap(patches[lower], patches[upper], canvas.owner, upper + 1)
                if shared:
                    share = round(shared / patches[lower].total, 3)
                    out.append([lower, upper, share, round(seen / shared, 3)])
    return out


def annotate(scene: Scene, canvas: Canvas) -> View:
    """Fill in ``box``, ``area``, ``visible``, ``inside`` and ``segmentation``, ``size_word`` and
    ``position`` of every object, and the scene's ``overlaps`` and ``relations``.

    Returns: a view of the annotated scene.
    """
    for i, obj in enumerate(scene.objects):
        patch = canvas.patches[i]
        rows, cols = patch.slices
        area = canvas.visible[i]
        mask = patch.mask if area == patch.seen else canvas.owner[rows, cols] == i + 1
        x, y, w, h = cv2.boundingRect(np.ascontiguousarray(mask).view(np.uint8))
        obj.box = (cols.start + x, rows.start + y, w, h)
        obj.area = area
        obj.visible = round(area / patch.total, 3)
        obj.inside = round(patch.seen / patch.total, 3)
        obj.segmentation = _segmentation(obj, i, canvas)
    scene.overlaps = _overlaps(canvas)
    view = View(scene)
    for i, obj in enumerate(scene.objects):
        obj.size_word, obj.position = view.size_word(i), view.positions(i)
    scene.relations = view.all_relations()
    return view
