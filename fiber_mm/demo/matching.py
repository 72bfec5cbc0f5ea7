"""Which predicted boxes of an image are right, and which objects are found."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fiber_mm.evaluation.functional.grounding import box_iou


def match(
    boxes: np.ndarray,
    names: Sequence[str],
    true_boxes: np.ndarray,
    true_names: Sequence[str],
    threshold: float = 0.5,
) -> tuple[list[bool], list[bool]]:
    """Give each prediction, best first, to the free true box of its class that it fits best.

    Args:
        boxes: (N, 4) xyxy, best first.
        names: Their N classes.
        true_boxes: (M, 4) xyxy.
        true_names: Their M classes.
        threshold: Least intersection over union.

    Returns:
        For each prediction whether it is right; for each true box whether it is found.
    """
    right, found = [False] * len(names), [False] * len(true_names)
    ious = box_iou(boxes, true_boxes)
    for i, name in enumerate(names):
        free = [j for j, true in enumerate(true_names) if true == name and not found[j]]
        best = max(free, key=lambda j: ious[i, j], default=None)
        if best is not None and ious[i, best] >= threshold:
            right[i] = found[best] = True
    return right, found
