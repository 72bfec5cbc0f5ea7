"""Phrase grounding (Flickr30k Entities) and referring expressions (RefCOCO/+/g)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.fileio import get_text
from mmengine.logging import MMLogger

from fiber_mm.registry import METRICS

from ..functional.grounding import (
    expression_hits,
    mean_hits,
    parse_entity_boxes,
    phrase_hits,
    phrases_with_boxes,
)


def _ranked(sample: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Predicted boxes (N, 4) and labels (N,), best first."""
    pred = sample['pred_instances']
    scores = pred['scores'].detach().float().cpu().numpy()
    order = np.argsort(-scores, kind='stable')
    boxes = pred['bboxes'].detach().float().cpu().numpy().reshape(-1, 4)[order]
    return boxes, pred['labels'].cpu().numpy()[order]


def _wanted(sample: Mapping[str, Any], key: str, metric: str) -> Any:
    if key not in sample:
        raise KeyError(
            f'{metric}: the data sample of {sample.get("img_path")} has no {key!r}: use '
            'FiberMDETRDataset with test_mode=True, and FiberPackInputs at the end of its pipeline'
        )
    return sample[key]


def _groups(sample: Mapping[str, Any]) -> list[str]:
    """Names under which a sample is also counted: its data set, and whether it is unseen."""
    groups = []
    if sample.get('dataset_name') is not None:
        groups.append(str(sample['dataset_name']))
    if sample.get('unseen') is not None:
        groups.append('unseen' if sample['unseen'] else 'seen')
    return groups


@METRICS.register_module()
class FiberFlickr30kMetric(BaseMetric):
    """Recall of phrases: R@k at IoU >= 0.5, averaged over phrases.

    Follows the evaluator of Flickr30k Entities that GLIP and FIBER use: no +1 in the IoU, an
    empty list of boxes is a miss. Without ``entities_root`` the truth is that of the samples
    (``phrase_boxes`` of the MDETR-style file); phrases without true boxes are not counted.

    Results: ``R@k``, ``upper_bound`` (k = -1), and the same by phrase type or group of sample
    (``R@1_people``, ``R@1_unseen``).

    Args:
        topk: Values of k; -1 for all boxes.
        iou_thr: Least IoU of a hit.
        merge_boxes: MERGED-BOX instead of ANY-BOX (the released configs' protocol).
        entities_root: Folder of Flickr30k Entities with ``Annotations/*.xml`` and
            ``Sentences/*.txt``, the truth of published numbers.
        **kwargs: As in mmengine's metrics.
    """

    default_prefix = 'flickr30k'

    def __init__(
        self,
        topk: Sequence[int] = (1, 5, 10, -1),
        iou_thr: float = 0.5,
        merge_boxes: bool = False,
        entities_root: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.topk = tuple(topk)
        self.iou_thr = iou_thr
        self.merge_boxes = merge_boxes
        self.entities_root = None if entities_root is None else Path(entities_root)
        if self.entities_root is not None and not (self.entities_root / 'Annotations').is_dir():
            raise FileNotFoundError(
                f'{entities_root} has no folder Annotations: entities_root must be the folder of '
                'Flickr30k Entities'
            )

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Reduce each sample to the hits of its phrases."""
        for sample in data_samples:
            boxes, labels = _ranked(sample)
            groups = _groups(sample)
            record = []
            for index, (true_boxes, types) in enumerate(self._truth(sample)):
                if len(true_boxes) == 0:
                    continue
                hits = phrase_hits(
                    boxes[labels == index], true_boxes, self.topk, self.iou_thr, self.merge_boxes
                )
                record.append((hits, [*groups, *types]))
            self.results.append(record)

    def _truth(self, sample: dict) -> list[tuple[Any, Sequence[str]]]:
        phrase_boxes = _wanted(sample, 'phrase_boxes', type(self).__name__)
        if self.entities_root is None:
            return [(boxes, ()) for boxes in phrase_boxes]
        stem = Path(sample['img_path']).stem
        number = int(_wanted(sample, 'sentence_id', type(self).__name__))
        entity_boxes = parse_entity_boxes(
            get_text(str(self.entities_root / 'Annotations' / f'{stem}.xml'))
        )
        sentences = get_text(str(self.entities_root / 'Sentences' / f'{stem}.txt')).split('\n')
        sentences = [sentence for sentence in sentences if sentence]
        if number >= len(sentences):
            raise ValueError(f'{stem}.txt has {len(sentences)} sentences, none is number {number}')
        truth = phrases_with_boxes(sentences[number], entity_boxes)
        if len(truth) != len(phrase_boxes):
            raise ValueError(
                f'sentence {number} of image {stem} has {len(truth)} phrases with boxes in '
                f'{self.entities_root}, but {len(phrase_boxes)} in the annotation file'
            )
        return [(boxes, phrase.types) for phrase, boxes in truth]

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Average over phrases."""
        phrases = [phrase for record in results for phrase in record]
        shares = mean_hits([hits for hits, _ in phrases], [groups for _, groups in phrases])
        metrics = {}
        for group, values in shares.items():
            suffix = '' if group == 'all' else f'_{group}'
            for k, value in zip(self.topk, values):
                name = 'upper_bound' if k == -1 else f'R@{k}'
                metrics[f'{name}{suffix}'] = float(value)
        logger = MMLogger.get_current_instance()
        logger.info(f'phrase grounding: {len(phrases)} phrases of {len(results)} captions')
        if not phrases:
            logger.warning('no phrase has true boxes: nothing to evaluate')
        return metrics


@METRICS.register_module()
class FiberRefExpMetric(BaseMetric):
    """Accuracy of referring expressions: precision@k at GIoU >= 0.5.

    Results: ``precision@k`` over all expressions, the same for each ``dataset_name`` of the
    samples and for seen and unseen ones (``refcoco_precision@1``, ``unseen_precision@1``), and
    ``mean_precision``, the mean over data sets and k.

    Args:
        topk: Values of k.
        iou_thr: Least overlap of a hit.
        generalised: GIoU, as published numbers have it; else IoU.
        **kwargs: As in mmengine's metrics.
    """

    default_prefix = 'refexp'

    def __init__(
        self,
        topk: Sequence[int] = (1, 5, 10),
        iou_thr: float = 0.5,
        generalised: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.topk = tuple(topk)
        self.iou_thr = iou_thr
        self.generalised = generalised

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Reduce each sample to its hits."""
        for sample in data_samples:
            true_boxes = _wanted(sample, 'phrase_boxes', type(self).__name__)
            if len(true_boxes) == 0 or len(true_boxes[0]) == 0:
                raise ValueError(f'the expression of image {sample.get("img_id")} has no true box')
            boxes, labels = _ranked(sample)
            hits = expression_hits(
                boxes[labels == 0], true_boxes[0], self.topk, self.iou_thr, self.generalised
            )
            self.results.append((hits, sample.get('dataset_name'), _groups(sample)))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Average over expressions."""
        shares = mean_hits([hits for hits, _, _ in results], [groups for *_, groups in results])
        metrics = {}
        for group, values in shares.items():
            prefix = '' if group == 'all' else f'{group}_'
            for k, value in zip(self.topk, values):
                metrics[f'{prefix}precision@{k}'] = float(value)
        names = sorted({str(name) for _, name, _ in results if name is not None}) or ['all']
        if shares:
            metrics['mean_precision'] = float(np.mean([shares[name] for name in names]))
        logger = MMLogger.get_current_instance()
        logger.info(f'referring expressions: {len(results)}')
        return metrics
