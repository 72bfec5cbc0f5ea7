"""LVIS box AP, ordinary and fixed, on pycocotools: the ``lvis`` package needs an old NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.logging import MMLogger

from fiber_mm.registry import METRICS

from .coco import (
    IOU_50,
    IOU_75,
    FiberCocoMetric,
    QuietCOCOeval,
    average_precision,
    detections_to_coco,
    quiet_coco,
)

FREQUENCIES = {'r': 'APr', 'c': 'APc', 'f': 'APf'}
#: Detections that may be waiting before the ones of low rank are thrown away.
BUFFER = 4_000_000
UNLIMITED = 10**9


class FederatedEval(QuietCOCOeval):
    """LVIS's rules on COCO's evaluation.

    An image is annotated for some categories only: those with boxes and those verified absent;
    detections of others do not count. Where a category is not annotated exhaustively, detections
    that match nothing do not count either.
    """

    def evaluateImg(self, imgId: int, catId: int, aRng: list, maxDet: int) -> dict | None:
        """COCO's matching of one image and category, then LVIS's ignoring."""
        result = super().evaluateImg(imgId, catId, aRng, maxDet)
        image = self.cocoGt.imgs[imgId]
        if result is not None and catId in image.get('not_exhaustive_category_ids', ()):
            result['dtIgnore'] = np.logical_or(
                result['dtIgnore'], np.asarray(result['dtMatches']) == 0
            )
        return result


@METRICS.register_module()
class FiberLVISFixedAPMetric(FiberCocoMetric):
    """LVIS "fixed AP" (Dave et al. 2021): the best ``topk`` boxes of each class over all images.

    Boxes are taken as inclusive corners as they are, without +1, as in the original. Labels are
    in the order of the category ids (``FiberLVISDataset``).

    Results: ``AP``, ``AP50``, ``AP75``, ``APs``, ``APm``, ``APl``, ``APr``, ``APc``, ``APf``.

    Args:
        ann_file: LVIS v1 annotations.
        topk: Boxes of a class that count.
        **kwargs: As in mmengine's metrics.
    """

    default_prefix = 'lvis_fixed_ap'

    def __init__(self, ann_file: str, topk: int = 10000, **kwargs: Any) -> None:
        super().__init__(ann_file, inclusive=False, **kwargs)
        self.topk = topk
        self._content['categories'].sort(key=lambda category: category['id'])
        for annotation in self._content['annotations']:
            annotation.setdefault('iscrowd', 0)
        self._waiting = 0

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep the boxes of each image, and now and then only the best of each class."""
        before = len(self.results)
        super().process(data_batch, data_samples)
        for record in self.results[before:]:
            self._waiting += len(record['scores'])
            record['boxes'] = record['boxes'].astype(np.float32)
        if self._waiting > BUFFER:
            keep_best(self.results, self.topk)
            # What is left may be more than the buffer; do not sort it again at every image.
            self._waiting = min(self._waiting, BUFFER) // 2

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Run the evaluation."""
        categories = self._categories()
        cat_ids = [category['id'] for category in categories]
        keep_best(results, self.topk)
        keep_annotated(results, cat_ids, self._content)
        truth = quiet_coco(self._content)
        evaluation = FederatedEval(truth, detections_to_coco(results, cat_ids, self._content))
        evaluation.params.catIds = cat_ids
        evaluation.params.imgIds = sorted({record['img_id'] for record in results})
        evaluation.params.maxDets = [UNLIMITED]
        evaluation.run()
        precision = evaluation.eval['precision']
        thresholds = evaluation.params.iouThrs
        metrics = {
            'AP': average_precision(precision),
            'AP50': average_precision(precision, iou=int(np.abs(thresholds - IOU_50).argmin())),
            'AP75': average_precision(precision, iou=int(np.abs(thresholds - IOU_75).argmin())),
            'APs': average_precision(precision, area=1),
            'APm': average_precision(precision, area=2),
            'APl': average_precision(precision, area=3),
        }
        for frequency, name in FREQUENCIES.items():
            group = [i for i, c in enumerate(categories) if c.get('frequency') == frequency]
            metrics[name] = average_precision(precision, group)
        logger = MMLogger.get_current_instance()
        logger.info(', '.join(f'{name} {value:.4f}' for name, value in metrics.items()))
        return metrics


def _select(record: dict, keep: np.ndarray) -> None:
    for key in ('boxes', 'scores', 'labels'):
        record[key] = record[key][keep]


def keep_best(records: list[dict], topk: int) -> None:
    """Keep the best boxes of each class over all images, in place; earlier ones win ties."""
    if not records:
        return
    lengths = [len(record['scores']) for record in records]
    scores = np.concatenate([record['scores'] for record in records])
    labels = np.concatenate([record['labels'] for record in records])
    order = np.lexsort((-scores, labels))  # stable: by class, then best first
    sorted_labels = labels[order]
    starts = np.flatnonzero(np.r_[True, sorted_labels[1:] != sorted_labels[:-1]][: len(order)])
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    keep = np.zeros(len(order), dtype=bool)
    keep[order[rank < topk]] = True
    for record, part in zip(records, np.split(keep, np.cumsum(lengths)[:-1])):
        _select(record, part)


def keep_annotated(records: list[dict], cat_ids: Sequence[int], content: dict) -> None:
    """Keep the boxes of classes that their image is annotated for, in place."""
    annotated: dict[Any, set[int]] = {
        image['id']: set(image.get('neg_category_ids', ())) for image in content['images']
    }
    for annotation in content['annotations']:
        annotated[annotation['image_id']].add(annotation['category_id'])
    cat_ids = np.asarray(cat_ids)
    for record in records:
        known = np.array(sorted(annotated[record['img_id']]), dtype=cat_ids.dtype)
        _select(record, np.isin(cat_ids[record['labels']], known))
