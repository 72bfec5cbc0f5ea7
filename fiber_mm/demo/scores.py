"""Scores that the demo adds to those of the metrics: AP of a part of the classes, and matching."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def average_precision(
    ann_file: str | Path, predictions: str | Path, groups: dict[str, Sequence[str]]
) -> dict[str, float]:
    """COCO's AP and AP50 for groups of classes; all classes compete in the predictions.

    Args:
        ann_file: Ground truth, COCO format.
        predictions: Detections, COCO's result format (``CocoMetric`` writes it).
        groups: Name of a group to the names of its classes.

    Returns:
        ``ap_<group>`` and ``ap50_<group>``, fractions; classes without ground truth do not count.

    Raises:
        ValueError: If a class of a group is not in the ground truth, or none has a box.
    """
    # pycocotools prints its progress.
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(ann_file))
        found = json.loads(Path(predictions).read_text(encoding='utf-8'))
        evaluation = COCOeval(truth, truth.loadRes(found) if found else COCO(), 'bbox')
        if not found:
            return {f'{key}_{group}': 0.0 for group in groups for key in ('ap', 'ap50')}
        evaluation.evaluate()
        evaluation.accumulate()
    # thresholds (0.5 first), recalls, classes, areas (all first), detections (100 last)
    precision = evaluation.eval['precision'][:, :, :, 0, -1]
    column = {truth.cats[i]['name']: n for n, i in enumerate(evaluation.params.catIds)}
    out = {}
    for group, names in groups.items():
        unknown = sorted(set(names) - set(column))
        if unknown:
            raise ValueError(f'{ann_file} has no classes {unknown}; it has {sorted(column)}')
        part = precision[:, :, [column[name] for name in names]]
        if not (part > -1).any():
            raise ValueError(f'{ann_file} has no box of the classes {group!r}: {sorted(names)}')
        out[f'ap_{group}'] = float(part[part > -1].mean())
        out[f'ap50_{group}'] = float(part[0][part[0] > -1].mean())
    return out


def box_ious(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, 4) and (M, 4) xyxy boxes -> (N, M) intersection over union."""
    corner = np.minimum(a[:, None, 2:], b[None, :, 2:])
    sides = np.clip(corner - np.maximum(a[:, None, :2], b[None, :, :2]), 0, None)
    inter = sides.prod(-1)
    areas = [(x[:, 2:] - x[:, :2]).clip(0).prod(-1) for x in (a, b)]
    return inter / np.maximum(areas[0][:, None] + areas[1][None] - inter, 1e-9)


def match(
    boxes: np.ndarray,
    names: Sequence[str],
    true_boxes: np.ndarray,
    true_names: Sequence[str],
    threshold: float = 0.5,
) -> tuple[list[bool], list[bool]]:
    """Which predictions are right, and which ground truth is found.

    Args:
        boxes: (N, 4), best first.
        names: Their N classes.
        true_boxes: (M, 4).
        true_names: Their M classes.
        threshold: Least intersection over union.

    Returns:
        For each prediction whether it is the best one for a box of its class; for each true box
        whether it has one.
    """
    found = [False] * len(true_names)
    right = [False] * len(names)
    if not names or not true_names:
        return right, found
    ious = box_ious(boxes.reshape(-1, 4), true_boxes.reshape(-1, 4))
    for i, name in enumerate(names):
        free = [j for j, true in enumerate(true_names) if true == name and not found[j]]
        if free:
            best = max(free, key=lambda j: ious[i, j])
            if ious[i, best] >= threshold:
                right[i] = found[best] = True
    return right, found
