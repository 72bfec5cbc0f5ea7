"""COCO average precision with the original's +1, also over named parts of the classes."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger, print_log
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from fiber_mm.datasets.annotations import read_json
from fiber_mm.registry import METRICS

AREAS = ('all', 'small', 'medium', 'large')
IOU_50, IOU_75 = 0.5, 0.75


def quiet_coco(content: dict) -> COCO:
    """pycocotools' index over annotations, without its prints and without reading a file twice.

    Annotations are copied and numbered from 1: the evaluation writes into them, and takes a match
    with the id 0 for no match. Without ``iscrowd`` they are no crowd, without ``area`` it is the
    box's.
    """
    annotations = [
        {
            'iscrowd': 0,
            'area': annotation['bbox'][2] * annotation['bbox'][3],
            **annotation,
            'id': number,
        }
        for number, annotation in enumerate(content['annotations'], 1)
    ]
    coco = COCO()
    coco.dataset = {**content, 'annotations': annotations}
    coco.anns = {annotation['id']: annotation for annotation in annotations}
    coco.imgs = {image['id']: image for image in content['images']}
    coco.cats = {category['id']: category for category in content['categories']}
    for annotation in annotations:
        coco.imgToAnns[annotation['image_id']].append(annotation)
        coco.catToImgs[annotation['category_id']].append(annotation['image_id'])
    return coco


def detections_to_coco(
    records: Sequence[Mapping[str, Any]], cat_ids: Sequence[int], truth: Mapping[str, Any]
) -> COCO:
    """Detections as pycocotools wants them.

    Args:
        records: For each image ``img_id``, ``boxes`` (N, 4) x, y, w, h, ``scores`` (N,) and
            ``labels`` (N,).
        cat_ids: Category id of each label.
        truth: Content of the annotation file.
    """
    annotations: list[dict] = []
    for record in records:
        rows = zip(record['boxes'].tolist(), record['scores'].tolist(), record['labels'].tolist())
        for box, score, label in rows:
            annotations.append(
                {
                    'image_id': record['img_id'],
                    'category_id': cat_ids[label],
                    'bbox': box,
                    'area': box[2] * box[3],
                    'score': score,
                    'iscrowd': 0,
                }
            )
    return quiet_coco(
        {
            'images': truth['images'],
            'categories': truth['categories'],
            'annotations': annotations,
        }
    )


def average_precision(
    precision: np.ndarray,
    classes: Sequence[int] | None = None,
    iou: int | None = None,
    area: int = 0,
) -> float:
    """Mean over what was evaluated, NaN if nothing was.

    Args:
        precision: (IoUs, recalls, classes, areas, limits) of ``COCOeval.accumulate``, -1 where a
            class has no true boxes.
        classes: Indices of classes; None for all.
        iou: Index of the IoU threshold; None for all.
        area: Index into ``AREAS``.
    """
    values = precision[:, :, :, area, -1]
    if iou is not None:
        values = values[iou : iou + 1]
    if classes is not None:
        values = values[:, :, list(classes)]
    values = values[values > -1]
    return float(values.mean()) if values.size else float('nan')


@METRICS.register_module()
class FiberCocoMetric(BaseMetric):
    """COCO box AP.

    Predicted boxes are inclusive corners, so 1 is added to widths and heights, as the original
    does. Labels are in the order of the ``categories`` of the annotation file, restricted to the
    classes of the data set (``FiberCocoDataset``).

    Results: ``bbox_mAP``, ``bbox_mAP_50``, ``bbox_mAP_75``, ``bbox_mAP_s``, ``_m``, ``_l``,
    ``bbox_AR@100``; for each subset ``NAME_mAP``, ``NAME_mAP_50``; with ``classwise`` also
    ``CLASS_AP50``. NaN where there are no true boxes.

    Args:
        ann_file: COCO-format annotations.
        subsets: Name to class names, evaluated on their own, say
            ``dict(unseen=['red star'])``; the other classes can be had as ``rest_of``.
        rest_of: Name of the subset of all classes that are in no other, e.g. ``'seen'``.
        inclusive: Whether predicted boxes are inclusive corners.
        max_dets: Most detections of an image.
        classwise: Whether to report each class.
        backend_args: For mmengine's file backends.
        **kwargs: As in mmengine's metrics.
    """

    default_prefix = 'coco'

    def __init__(
        self,
        ann_file: str,
        subsets: Mapping[str, Sequence[str]] | None = None,
        rest_of: str | None = None,
        inclusive: bool = True,
        max_dets: int = 100,
        classwise: bool = False,
        backend_args: dict | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.ann_file = ann_file
        self.subsets = {name: list(classes) for name, classes in (subsets or {}).items()}
        self.rest_of = rest_of
        self.extent = 1.0 if inclusive else 0.0
        self.max_dets = max_dets
        self.classwise = classwise
        self._content = read_json(ann_file, ('images', 'annotations', 'categories'), backend_args)

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep the boxes of each image."""
        for sample in data_samples:
            pred = sample['pred_instances']
            boxes = pred['bboxes'].detach().double().cpu().numpy().reshape(-1, 4).copy()
            boxes[:, 2:] += self.extent - boxes[:, :2]
            self.results.append(
                {
                    'img_id': sample['img_id'],
                    'boxes': boxes,
                    'scores': pred['scores'].detach().double().cpu().numpy(),
                    'labels': pred['labels'].cpu().numpy(),
                }
            )

    def _categories(self) -> list[dict]:
        categories = list(self._content['categories'])
        wanted = (self.dataset_meta or {}).get('classes')
        if wanted is None:
            return categories
        chosen = [category for category in categories if category['name'] in set(wanted)]
        names = [category['name'] for category in chosen]
        if names != list(wanted):
            raise ValueError(
                f'the classes of the data set are not those of {self.ann_file}, or in another '
                f'order: {list(wanted)[:5]} ..., in the file {names[:5]} ...; use FiberCocoDataset'
            )
        return chosen

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Run COCO's evaluation."""
        categories = self._categories()
        names = [category['name'] for category in categories]
        cat_ids = [category['id'] for category in categories]
        logger = MMLogger.get_current_instance()
        if not any(len(record['boxes']) for record in results):
            logger.warning('there is no detection at all')
        truth = quiet_coco(self._content)
        evaluation = QuietCOCOeval(truth, detections_to_coco(results, cat_ids, self._content))
        evaluation.params.catIds = cat_ids
        evaluation.params.imgIds = sorted({record['img_id'] for record in results})
        evaluation.params.maxDets = [1, 10, self.max_dets]
        evaluation.run()
        metrics = self._summary(evaluation, names)
        logger.info(', '.join(f'{name} {value:.4f}' for name, value in metrics.items()))
        return metrics

    def _summary(self, evaluation: COCOeval, names: list[str]) -> dict[str, float]:
        precision = evaluation.eval['precision']
        thresholds = evaluation.params.iouThrs
        at_50 = int(np.abs(thresholds - IOU_50).argmin())
        at_75 = int(np.abs(thresholds - IOU_75).argmin())
        recall = evaluation.eval['recall'][:, :, 0, -1]
        recall = recall[recall > -1]
        metrics = {
            'bbox_mAP': average_precision(precision),
            'bbox_mAP_50': average_precision(precision, iou=at_50),
            'bbox_mAP_75': average_precision(precision, iou=at_75),
            **{
                f'bbox_mAP_{area[0]}': average_precision(precision, area=index)
                for index, area in enumerate(AREAS)
                if index > 0
            },
            f'bbox_AR@{self.max_dets}': float(recall.mean()) if recall.size else float('nan'),
        }
        for subset, classes in self._subsets(names).items():
            metrics[f'{subset}_mAP'] = average_precision(precision, classes)
            metrics[f'{subset}_mAP_50'] = average_precision(precision, classes, at_50)
        if self.classwise:
            for index, name in enumerate(names):
                metrics[f'{name}_AP50'] = average_precision(precision, [index], at_50)
        return metrics

    def _subsets(self, names: list[str]) -> dict[str, list[int]]:
        subsets = {}
        for subset, classes in self.subsets.items():
            unknown = sorted(set(classes) - set(names))
            if unknown:
                raise ValueError(f'subset {subset!r} has classes that are not evaluated: {unknown}')
            subsets[subset] = [names.index(name) for name in classes]
        if self.rest_of is not None:
            taken = {index for classes in subsets.values() for index in classes}
            subsets[self.rest_of] = [i for i in range(len(names)) if i not in taken]
        return subsets


class QuietCOCOeval(COCOeval):
    """COCO's box evaluation without its prints."""

    def __init__(self, truth: COCO, detections: COCO) -> None:
        super().__init__(truth, detections, iouType='bbox')

    def run(self) -> None:
        """Evaluate and accumulate."""
        with contextlib.redirect_stdout(io.StringIO()):
            self.evaluate()
            self.accumulate()
        print_log(f'evaluated {len(self.params.imgIds)} images', 'current')
