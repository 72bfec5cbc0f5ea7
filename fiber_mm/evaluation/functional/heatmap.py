"""Scores of heatmaps against boxes. Pure numpy, and OpenCV for connected components.

Pixel (row, column) covers the square from (column, row) to (column + 1, row + 1) and is judged by
its centre; boxes are x1, y1, x2, y2, without the legacy +1.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from .grounding import box_iou

#: Values within this share of the maximum count as the peak: interpolation rounds.
PEAK = 1e-6


def _checked(heatmap: ArrayLike) -> NDArray:
    heatmap = np.asarray(heatmap, dtype=np.float64)
    if heatmap.ndim != 2 or heatmap.size == 0 or not np.isfinite(heatmap).all():
        raise ValueError(f'a map is finite and of shape (H, W), got {heatmap.shape}')
    if heatmap.min() < 0:
        raise ValueError(f'a map is not negative, its least value is {heatmap.min()}')
    return heatmap


def _component(mask: NDArray, row: int, column: int) -> tuple[NDArray, NDArray]:
    """Rows and columns of the 8-connected component of a pixel."""
    _, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    return np.nonzero(labels == labels[row, column])


def peak(heatmap: ArrayLike) -> tuple[int, int] | None:
    """Row and column of the highest pixel.

    On a plateau (outside of the outermost cells' centres bilinear maps are level) it is the
    plateau's pixel that is nearest to the plateau's centre; of several plateaus the first one by
    rows.

    Args:
        heatmap: (H, W), not negative.

    Returns:
        None for a map without a peak: one that is 0 everywhere.
    """
    heatmap = _checked(heatmap)
    top = heatmap.max()
    if top == 0:
        return None
    highest = heatmap >= top * (1 - PEAK)
    rows, columns = _component(highest, *np.unravel_index(highest.argmax(), highest.shape))
    nearest = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
    return int(rows[nearest]), int(columns[nearest])


def box_around_peak(heatmap: ArrayLike, threshold: float = 0.5) -> NDArray | None:
    """The tightest box around what is high and connected with the peak.

    Args:
        heatmap: (H, W), not negative.
        threshold: Share of the maximum, in (0, 1], from which on a pixel belongs to it.

    Returns:
        (4,) x1, y1, x2, y2 in pixels; None for a map without a peak.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f'a threshold is a share of the maximum in (0, 1], got {threshold}')
    heatmap = _checked(heatmap)
    place = peak(heatmap)
    if place is None:
        return None
    high = heatmap >= heatmap.max() * min(threshold, 1 - PEAK)
    rows, columns = _component(high, *place)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], np.float64)


def pixels_in_boxes(boxes: ArrayLike, height: int, width: int) -> NDArray:
    """(height, width) bool: the pixels whose centre lies in one of the boxes (M, 4)."""
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    inside_x = (boxes[:, :1] <= x) & (x <= boxes[:, 2:3])
    inside_y = (boxes[:, 1:2] <= y) & (y <= boxes[:, 3:])
    return (inside_y[:, :, None] & inside_x[:, None, :]).any(0)


def hits_of_box(box: ArrayLike | None, true_boxes: ArrayLike, iou_threshold: float = 0.5) -> bool:
    """Whether a box overlaps one of the true ones enough; no box is a miss."""
    return box is not None and bool((box_iou(box, true_boxes) >= iou_threshold).any())
