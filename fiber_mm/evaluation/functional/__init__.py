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
from .retrieval import ahead, best_ranks, recall_at, reranked

__all__ = [
    'ahead',
    'best_ranks',
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
    'recall_at',
    'reranked',
]
