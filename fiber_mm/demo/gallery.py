"""Pictures of what a model finds, next to the ground truth.

Images come in the order of the validation split, not chosen by result; where failures are looked
for, the caption says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

import numpy as np
from torch import nn
from tqdm import tqdm

from fiber_mm.apis import encode_image, ground
from fiber_mm.datasets.transforms import read_image
from fiber_mm.evaluation.functional.grounding import box_giou, box_iou
from fiber_mm.report import coloured_phrases, figure
from fiber_mm.visualization import DrawnBox, colours_of, draw_boxes
from fiber_mm.visualization.palette import OKABE_ITO, WHITE

from .annotations import LabelledImage
from .matching import match

#: Least score of a box in the pictures of detections.
SHOWN_SCORE = 0.3
FOUND_IOU = 0.5


def detection_figures(
    model: nn.Module,
    images: Sequence[LabelledImage],
    classes: Sequence[str],
    only: Sequence[str] | None = None,
    marked: Sequence[str] = (),
    progress: str = 'detections',
) -> list[str]:
    """Ground truth on the left, predictions on the right.

    Args:
        model: From ``init_grounder``.
        images: What to show.
        classes: All of them are in the prompt.
        only: Classes to draw; by default all.
        marked: Classes whose names get a star.
        progress: What the progress bar says.
    """
    drawn = set(classes if only is None else only)
    figures = []
    for item in _watched(images, progress):
        result = _found(ground(model, str(item.path), list(classes), score_thr=SHOWN_SCORE))
        predicted = [row for row in result if row[1] in drawn]
        truth = [(box, name) for box, name in zip(item.boxes, item.names) if name in drawn]
        boxes = np.array([row[0] for row in predicted]).reshape(-1, 4)
        names = [row[1] for row in predicted]
        true_boxes = np.array([row[0] for row in truth]).reshape(-1, 4)
        true_names = [row[1] for row in truth]
        right, found = match(boxes, names, true_boxes, true_names, FOUND_IOU)
        colours = colours_of([*true_names, *names])
        left = [
            DrawnBox(tuple(box), _starred(name, marked), colours[name], dashed=True)
            for box, name in truth
        ]
        shown = [
            DrawnBox(
                tuple(box),
                f'{"" if ok else "✗ "}{_starred(name, marked)} {score:.2f}',
                colours[name],
            )
            for (box, name, score, _), ok in zip(predicted, right)
        ]
        image = _rgb(item)
        picture = [draw_boxes(image, left), draw_boxes(image, shown)]
        missed = [name for name, ok in zip(true_names, found) if not ok]
        note = f'<b>{sum(found)} of {len(found)}</b> found'
        if missed:
            note += f'; missed: {escape(", ".join(missed))}'
        wrong = len(right) - sum(right)
        if wrong:
            note += f'; <span class=bad>{wrong} wrong (✗)</span>'
        figures.append(figure(picture, note, f'ground truth and detections in {item.path.name}'))
    return figures


def phrase_figures(model: nn.Module, images: Sequence[LabelledImage]) -> list[str]:
    """Ground truth and the best box of every phrase, one colour per phrase."""
    figures = []
    for item in _watched(images, 'phrases'):
        spans = [[list(span) for span in phrase] for phrase in item.spans]
        result = _found(ground(model, str(item.path), item.text, tokens_positive=spans))
        colours = [OKABE_ITO[i % len(OKABE_ITO)] for i in range(len(spans))]
        left = [
            DrawnBox(tuple(box), '', colours[label], dashed=True)
            for box, label in zip(item.boxes, item.labels)
        ]
        shown, hits = [], 0
        for label in range(len(spans)):
            best = next((row for row in result if row[3] == label), None)
            if best is None:
                continue
            truth = item.boxes[[i for i, own in enumerate(item.labels) if own == label]]
            hit = bool(len(truth)) and box_iou(best[0][None], truth).max() >= FOUND_IOU
            hits += hit
            shown.append(DrawnBox(tuple(best[0]), '' if hit else '✗', colours[label]))
        image = _rgb(item)
        picture = [draw_boxes(image, left), draw_boxes(image, shown)]
        note = (
            f'{coloured_phrases(item.text, spans, colours)}<br>'
            f'<span class=soft>{hits} of {len(spans)} phrases right</span>'
        )
        figures.append(figure(picture, note, item.text))
    return figures


def expression_figures(
    model: nn.Module, images: Sequence[LabelledImage], shown: int = 6, failures: int = 3
) -> tuple[list[str], list[str], int]:
    """Predicted box against the box meant by an expression.

    Args:
        model: From ``init_grounder``.
        images: Expressions; looked at in order.
        shown: How many are shown whatever the result.
        failures: How many wrong answers among the others are shown.

    Returns:
        Figures of the first ones; figures of failures among the rest; how many were looked at.
    """
    first: list[str] = []
    wrong: list[str] = []
    seen: tuple[Any, Any] = (None, None)
    looked_at = 0
    for item in _watched(images, 'expressions'):
        if len(first) == shown and len(wrong) == failures:
            break
        looked_at += 1
        if seen[0] != item.path:  # several expressions about one image
            seen = item.path, encode_image(model, str(item.path))
        result = _found(ground(model, seen[1], item.text, tokens_positive=-1, score_thr=None))
        best = result[0] if result else None
        iou = -1.0 if best is None else float(box_giou(best[0][None], item.boxes).max())
        if len(first) < shown or (iou < FOUND_IOU and len(wrong) < failures):
            group = first if len(first) < shown else wrong
            group.append(_expression_figure(item, best, iou))
    return first, wrong, looked_at


def free_text_figures(model: nn.Module, pairs: Sequence[tuple[str, str]]) -> list[str]:
    """What a user's words find: pairs of an image file and a text."""
    figures = []
    for path, text in _watched(pairs, 'free text'):
        sample = ground(model, path, text, score_thr=SHOWN_SCORE)
        picture = draw_sample(_rgb_of(path), sample)
        figures.append(figure(picture, f'<code>{escape(text)}</code>', text))
    return figures


def draw_sample(image: np.ndarray, sample: Any) -> np.ndarray:
    """Draw the predictions of ``ground`` on an (H, W, 3) RGB image."""
    rows = _found(sample)
    colours = colours_of(sorted({row[3] for row in rows}))
    boxes = [
        DrawnBox(tuple(box), f'{name} {score:.2f}', colours[label])
        for box, name, score, label in rows
    ]
    return draw_boxes(image, boxes)


def _expression_figure(item: LabelledImage, best: tuple | None, iou: float) -> str:
    hit = iou >= FOUND_IOU
    boxes = [DrawnBox(tuple(item.boxes[0]), '', WHITE, dashed=True)]
    if best is not None:
        colour = OKABE_ITO[2] if hit else OKABE_ITO[5]
        boxes.append(DrawnBox(tuple(best[0]), '' if hit else '✗', colour))
    tone, word = ('good', '✓') if hit else ('bad', '✗')
    note = (
        f'<span class={tone}>{word}</span> {escape(item.text)} '
        f'<span class=soft>GIoU {iou:.2f}</span>'
    )
    return figure(draw_boxes(_rgb(item), boxes), note, item.text)


def _found(sample: Any) -> list[tuple[np.ndarray, str, float, int]]:
    """Box, name, score and label of each prediction, best first."""
    found = sample.pred_instances
    rows = zip(
        found.bboxes.double().cpu().numpy(),
        found.label_names,
        found.scores.tolist(),
        found.labels.tolist(),
    )
    return sorted(rows, key=lambda row: -row[2])


def _starred(name: str, marked: Sequence[str]) -> str:
    return f'{name}*' if name in marked else name


def _rgb(item: LabelledImage) -> np.ndarray:
    return _rgb_of(str(item.path))


def _rgb_of(path: str) -> np.ndarray:
    return np.ascontiguousarray(read_image(path)[..., ::-1])


def _watched(items: Sequence[Any], what: str) -> Iterator[Any]:
    yield from tqdm(items, desc=f'Drawing {what}', leave=False)
