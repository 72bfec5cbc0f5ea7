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

__all__ = [
    'box_giou',
    'box_iou',
    'expression_hits',
    'mean_hits',
    'merge_boxes',
    'phrase_hits',
    'ranked_hits',
]
