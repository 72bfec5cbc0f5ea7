"""Phrase grounding by heatmaps: does the peak lie on the object, does the map outline it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger

from fiber_mm.registry import METRICS

from ..functional.grounding import mean_hits
from ..functional.heatmap import box_around_peak, hits_of_box, peak, pixels_in_boxes
from .grounding import _groups, _wanted


@METRICS.register_module()
class FiberHeatmapMetric(BaseMetric):
    """Pointing game, and recall of boxes made of maps; averages over phrases.

    Results, each a share of the phrases that have true boxes:

    - ``pointing``: the map's peak lies in any true box of its phrase (Zhang et al. 2018, "Top-down
      neural attention by excitation backprop", without their margin of 15 pixels);
    - ``pointing_chance``: what a random pixel reaches: the mean share of the image that true boxes
      cover; ``pointing_centre``: what the image's centre reaches;
    - ``box_recall@t``: the box around what is connected with the peak and at least ``t`` of it
      overlaps a true box enough; ``box_recall_image``: what the whole image as the box reaches;
    - ``no_peak``: the map is level (an error for the scores above);

    and the same by group of sample (``pointing_unseen``).

    Args:
        thresholds: The values of t, shares of a map's maximum.
        iou_thr: Least IoU of a hit.
        **kwargs: As in mmengine's metrics.
    """

    default_prefix = 'heatmap'

    def __init__(
        self, thresholds: Sequence[float] = (0.3, 0.5, 0.7), iou_thr: float = 0.5, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        wrong = [t for t in thresholds if not 0 < t <= 1]
        if wrong:
            raise ValueError(f'thresholds are shares of a maximum in (0, 1], got {wrong}')
        self.thresholds = tuple(thresholds)
        self.iou_thr = iou_thr
        self.names = [
            'pointing',
            'pointing_chance',
            'pointing_centre',
            *(f'box_recall@{threshold:g}' for threshold in self.thresholds),
            'box_recall_image',
            'no_peak',
        ]

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Reduce each sample to the scores of its phrases.

        Raises:
            KeyError: If a sample has no maps or no true boxes.
            ValueError: If it has maps of another number of phrases.
        """
        for sample in data_samples:
            phrase_boxes = _wanted(sample, 'phrase_boxes', type(self).__name__)
            if 'pred_heatmaps' not in sample:
                raise KeyError(
                    f'the sample of {sample.get("img_path")} has no pred_heatmaps: the model must '
                    'be a FiberHeatmapModel'
                )
            maps = sample['pred_heatmaps'].detach().float().cpu().numpy()
            if len(maps) != len(phrase_boxes):
                raise ValueError(
                    f'{sample.get("img_path")}: {len(maps)} maps for {len(phrase_boxes)} phrases'
                )
            scores = [
                self._scores(heatmap, boxes)
                for heatmap, boxes in zip(maps, phrase_boxes)
                if len(boxes)
            ]
            self.results.append((scores, _groups(sample)))

    def _scores(self, heatmap: Any, boxes: Any) -> list[float]:
        """In the order of ``names``."""
        height, width = heatmap.shape
        inside, place = pixels_in_boxes(boxes, height, width), peak(heatmap)
        found = [box_around_peak(heatmap, threshold) for threshold in self.thresholds]
        whole = (0, 0, width, height)
        return [
            place is not None and float(inside[place]),
            float(inside.mean()),
            float(inside[height // 2, width // 2]),
            *(float(hits_of_box(box, boxes, self.iou_thr)) for box in (*found, whole)),
            float(place is None),
        ]

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Average over phrases."""
        phrases = [(scores, groups) for record, groups in results for scores in record]
        shares = mean_hits(*zip(*phrases)) if phrases else {}
        metrics = {}
        for group, values in shares.items():
            suffix = '' if group == 'all' else f'_{group}'
            for name, value in zip(self.names, values):
                metrics[f'{name}{suffix}'] = float(value)
        logger = MMLogger.get_current_instance()
        logger.info(f'heatmaps: {len(phrases)} phrases of {len(results)} captions')
        if not phrases:
            logger.warning('no phrase has true boxes: nothing to evaluate')
        return metrics
