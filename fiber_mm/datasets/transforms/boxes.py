"""Ground-truth boxes as the original trains on them: inclusive, clipped, none empty."""

from __future__ import annotations

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.logging import print_log

from fiber_mm.registry import TRANSFORMS

PER_BOX_KEYS = ('gt_bboxes', 'gt_bboxes_labels', 'gt_ignore_flags', 'gt_masks')


def keep_boxes(results: dict, keep: np.ndarray) -> None:
    """Keep a part of the boxes of a sample, with all that belongs to them.

    Args:
        results: Sample in a pipeline; changed in place.
        keep: (N,) bool.
    """
    for key in PER_BOX_KEYS:
        if key not in results:
            continue
        index = torch.from_numpy(keep) if isinstance(results[key], HorizontalBoxes) else keep
        results[key] = results[key][index]


class DropCounter:
    """Counts what a transform leaves out, and logs at 1, 10, 100, ..., once per process each."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.total = 0
        self.last = ''
        self._next_log = 1

    def add(self, number: int, example: str) -> None:
        """Count ``number`` more; ``example`` says where."""
        self.total += number
        self.last = example
        if number and self.total >= self._next_log:
            print_log(f'{self.total} {self.what} left out so far, last in {example}', 'current')
            while self._next_log <= self.total:
                self._next_log *= 10


@TRANSFORMS.register_module()
class FiberInclusiveBoxes(BaseTransform):
    """Turn boxes into the original's: inclusive corners, inside the image, with an area.

    x2 and y2 become ``x + w - 1`` and ``y + h - 1``, corners are clipped to [0, W-1] x [0, H-1],
    and boxes that are then at most one pixel wide or high are left out (counted in the log).
    Goes after ``LoadAnnotations`` and before any geometric transform.

    Required Keys: img_shape; optional gt_bboxes, gt_bboxes_labels, gt_ignore_flags
    Modified Keys: the same

    Args:
        offset: Subtracted from x2 and y2; 0 for annotations with inclusive corners.
    """

    def __init__(self, offset: float = 1.0) -> None:
        self.offset = offset
        self.dropped = DropCounter('boxes without area inside their image')

    def transform(self, results: dict) -> dict:
        """Correct the boxes of a sample."""
        boxes = results.get('gt_bboxes')
        if boxes is None:
            return results
        if not isinstance(boxes, HorizontalBoxes):
            boxes = HorizontalBoxes(boxes, dtype=torch.float32)
        corners = boxes.tensor.clone()
        path = results.get('img_path', 'an image without img_path')
        faulty = (~torch.isfinite(corners).all(1)).nonzero().flatten().tolist()
        if faulty:
            raise ValueError(
                f'{path}: box {faulty[0]} is {corners[faulty[0]].tolist()}: coordinates must be '
                'finite numbers; correct the annotation'
            )
        height, width = results['img_shape'][:2]
        corners[:, 2:] -= self.offset
        corners[:, 0::2].clamp_(0, width - 1)
        corners[:, 1::2].clamp_(0, height - 1)
        keep = ((corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1])).numpy()
        results['gt_bboxes'] = HorizontalBoxes(corners, clone=False)
        if not keep.all():
            self.dropped.add(int((~keep).sum()), str(path))
            keep_boxes(results, keep)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(offset={self.offset})'
