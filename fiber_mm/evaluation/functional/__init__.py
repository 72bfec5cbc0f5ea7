"""Pure scoring functions."""

from .grounding import (
    box_giou,
    box_iou,
    expression_hits,
    mean_hits,
    merge_boxes,
    phrase_hits,
    ranked_hits,
)
from .heatmap import box_around_peak, hits_of_box, peak, pixels_in_boxes

__all__ = [
    'box_around_peak',
    'box_giou',
    'box_iou',
    'expression_hits',
    'hits_of_box',
    'mean_hits',
    'merge_boxes',
    'peak',
    'phrase_hits',
    'pixels_in_boxes',
    'ranked_hits',
]
