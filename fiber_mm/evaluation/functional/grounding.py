"""Phrase grounding and referring expressions: which ranked boxes hit. Pure numpy.

Boxes are x1, y1, x2, y2; areas are (x2 - x1) * (y2 - y1), without the legacy +1, as in the
evaluators of MDETR, GLIP and FIBER.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from numpy.typing import ArrayLike, NDArray

ALL = 'all'


def _boxes(boxes: ArrayLike) -> NDArray:
    return np.asarray(boxes, dtype=np.float64).reshape(-1, 4)


def _areas(boxes: NDArray) -> NDArray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _divide(numerator: NDArray, denominator: NDArray) -> NDArray:
    """0 where the denominator is 0: two boxes of no area do not overlap."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)


def _intersection_union(first: NDArray, second: NDArray) -> tuple[NDArray, NDArray]:
    corner1 = np.maximum(first[:, None, :2], second[None, :, :2])
    corner2 = np.minimum(first[:, None, 2:], second[None, :, 2:])
    inter = (corner2 - corner1).clip(min=0).prod(-1)
    return inter, _areas(first)[:, None] + _areas(second)[None] - inter


def box_iou(first: ArrayLike, second: ArrayLike) -> NDArray:
    """Intersection over union.

    Args:
        first: (N, 4) boxes.
        second: (M, 4) boxes.

    Returns:
        (N, M), 0 for boxes of no area.
    """
    return _divide(*_intersection_union(_boxes(first), _boxes(second)))


def box_giou(first: ArrayLike, second: ArrayLike) -> NDArray:
    """Generalised intersection over union (Rezatofighi et al. 2019), in [-1, 1].

    Args:
        first: (N, 4) boxes.
        second: (M, 4) boxes.

    Returns:
        (N, M).
    """
    first, second = _boxes(first), _boxes(second)
    inter, union = _intersection_union(first, second)
    corner1 = np.minimum(first[:, None, :2], second[None, :, :2])
    corner2 = np.maximum(first[:, None, 2:], second[None, :, 2:])
    hull = (corner2 - corner1).clip(min=0).prod(-1)
    return _divide(inter, union) - _divide(hull - union, hull)


def merge_boxes(boxes: ArrayLike) -> NDArray:
    """The smallest box around all boxes, (1, 4): the MERGED-BOX protocol of Flickr30k."""
    boxes = _boxes(boxes)
    if len(boxes) == 0:
        return boxes
    return np.concatenate([boxes[:, :2].min(0), boxes[:, 2:].max(0)])[None]


def ranked_hits(
    overlaps: NDArray, topk: Sequence[int] = (1, 5, 10, -1), threshold: float = 0.5
) -> NDArray:
    """Whether one of the first k boxes hits one of the true ones.

    Args:
        overlaps: (N, M) overlap of N boxes, best first, with M true ones.
        topk: Values of k; -1 for all N.
        threshold: Least overlap of a hit.

    Returns:
        (len(topk),) bool; False where there is no box.
    """
    best = overlaps.max(1) if overlaps.size else np.zeros(0)
    return np.array(
        [bool((best[: k if k > 0 else None] >= threshold).any()) for k in topk], dtype=bool
    )


def phrase_hits(
    boxes: ArrayLike,
    true_boxes: ArrayLike,
    topk: Sequence[int] = (1, 5, 10, -1),
    iou_threshold: float = 0.5,
    merged: bool = False,
) -> NDArray:
    """Flickr30k Entities: whether a phrase is found among its first k boxes.

    Args:
        boxes: (N, 4) predicted boxes of the phrase, best first.
        true_boxes: (M, 4), M > 0.
        topk: Values of k; -1 for all (the upper bound).
        iou_threshold: Least IoU of a hit.
        merged: MERGED-BOX: the true box is the one around all; else ANY-BOX: any one counts.

    Returns:
        (len(topk),) bool.
    """
    true_boxes = merge_boxes(true_boxes) if merged else _boxes(true_boxes)
    if len(true_boxes) == 0:
        raise ValueError('a phrase without true boxes cannot be evaluated')
    return ranked_hits(box_iou(boxes, true_boxes), topk, iou_threshold)


def expression_hits(
    boxes: ArrayLike,
    true_box: ArrayLike,
    topk: Sequence[int] = (1, 5, 10),
    threshold: float = 0.5,
    generalised: bool = True,
) -> NDArray:
    """RefCOCO/+/g: whether the object is among the first k boxes.

    Args:
        boxes: (N, 4) predicted boxes, best first.
        true_box: (4,).
        topk: Values of k.
        threshold: Least overlap of a hit.
        generalised: Whether the overlap is GIoU, as in MDETR's evaluator and all that took it
            over; else IoU. GIoU is never above IoU, so this is a little stricter.

    Returns:
        (len(topk),) bool.
    """
    overlap = box_giou if generalised else box_iou
    return ranked_hits(overlap(boxes, true_box), topk, threshold)


def mean_hits(
    hits: Sequence[NDArray], groups: Sequence[Iterable[str]] | None = None
) -> dict[str, NDArray]:
    """Share of hits, over everything and over each group.

    Args:
        hits: For each item its (K,) hits.
        groups: For each item the groups that it belongs to.

    Returns:
        Group to (K,) shares; 'all' comes first. Empty if there are no items.
    """
    members: dict[str, list[NDArray]] = {ALL: list(hits)} if len(hits) else {}
    for hit, names in zip(hits, groups or []):
        for name in names:
            members.setdefault(name, []).append(hit)
    return {name: np.mean(values, axis=0) for name, values in members.items()}


# ------------------------------------------------------------------------- Flickr30k Entities


class Phrase(NamedTuple):
    """A phrase of a sentence of Flickr30k Entities."""

    text: str
    entity: str
    types: tuple[str, ...]


PHRASE = re.compile(r'\[/EN#(?P<entity>[^/\s\]]+)(?P<types>(?:/[^/\s\]]+)*)\s+(?P<text>[^\]]*)\]')


def parse_sentence(line: str) -> list[Phrase]:
    """Phrases of a line of ``Sentences/*.txt``: "[/EN#283585/people A man] sits ."."""
    return [
        Phrase(match['text'], match['entity'], tuple(match['types'].split('/')[1:]))
        for match in PHRASE.finditer(line)
    ]


def parse_entity_boxes(xml: str) -> dict[str, NDArray]:
    """Boxes of each entity of ``Annotations/*.xml``, as they stand there: entity to (M, 4)."""
    boxes: dict[str, list] = {}
    for thing in ElementTree.fromstring(xml).findall('object'):
        bndbox = thing.find('bndbox')
        if bndbox is None:
            continue
        box = [int(bndbox.findtext(key)) for key in ('xmin', 'ymin', 'xmax', 'ymax')]
        for name in thing.findall('name'):
            boxes.setdefault(name.text, []).append(box)
    return {entity: _boxes(rows) for entity, rows in boxes.items()}


def phrases_with_boxes(
    sentence: str, entity_boxes: Mapping[str, NDArray]
) -> list[tuple[Phrase, NDArray]]:
    """The phrases of a sentence that are evaluated: those whose entity has boxes."""
    return [
        (phrase, entity_boxes[phrase.entity])
        for phrase in parse_sentence(sentence)
        if phrase.entity in entity_boxes
    ]
