"""Reading annotation files: JSON with clear errors, checked boxes, a count of what is left out."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mmengine.fileio import get_local_path
from mmengine.logging import print_log

#: An image whose boxes all have a side of at most this many pixels counts as having none.
LEAST_SIDE = 1


def check_filter(filter_cfg: Mapping[str, Any] | None, known: Iterable[str]) -> dict[str, Any]:
    """A data set's ``filter_cfg``.

    Raises:
        ValueError: If it has a key that nothing reads.
    """
    filter_cfg, known = dict(filter_cfg or {}), sorted(known)
    unknown = sorted(set(filter_cfg) - set(known))
    if unknown:
        raise ValueError(f'unknown keys in filter_cfg: {unknown}; known are {known}')
    return filter_cfg


def read_json(path: str, wanted: Sequence[str] = (), backend_args: dict | None = None) -> Any:
    """Read a JSON file.

    Args:
        path: File, or any address that mmengine's file backends know.
        wanted: Keys that must be there.
        backend_args: For mmengine's file backends.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no JSON, no object, or lacks a key.
    """
    try:
        with get_local_path(path, backend_args=backend_args) as local, open(local, 'rb') as file:
            content = json.load(file)
    except FileNotFoundError as error:
        raise FileNotFoundError(f'there is no annotation file {path}') from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f'the annotation file {path} is no complete JSON: {error}') from error
    if wanted and not isinstance(content, dict):
        raise ValueError(
            f'the annotation file {path} holds a {type(content).__name__}; '
            f'wanted is an object with {", ".join(wanted)}'
        )
    missing = [key for key in wanted if key not in content]
    if missing:
        raise ValueError(f'the annotation file {path} has no {missing}, only {sorted(content)}')
    return content


def read_json_lines(path: str, backend_args: dict | None = None) -> Iterator[tuple[str, Any]]:
    """Read a file with one JSON object a line; yields ("file:line", object).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line is no JSON; names it.
    """
    try:
        with get_local_path(path, backend_args=backend_args) as local, open(local, 'rb') as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    yield f'{path}:{number}', json.loads(line)
                except (json.JSONDecodeError, UnicodeDecodeError) as error:
                    raise ValueError(f'{path}:{number} is no JSON object: {error}') from error
    except FileNotFoundError as error:
        raise FileNotFoundError(f'there is no annotation file {path}') from error


def check_box(box: Any, where: str) -> list[float]:
    """A box of four finite numbers.

    Raises:
        ValueError: If it is anything else; ``where`` says which annotation.
    """
    numbers = isinstance(box, (list, tuple)) and len(box) == 4
    if numbers and all(isinstance(v, (int, float)) and math.isfinite(v) for v in box):
        return list(box)
    raise ValueError(f'{where}: the box {box} is not four finite numbers; correct the annotation')


def box_fault(box: Sequence[float], height: int, width: int) -> str | None:
    """Why an image has nothing of a box: None, 'of no area' or 'outside its image'.

    Args:
        box: x1, y1, x2, y2 with exclusive far edges.
        height, width: Of the image.
    """
    x1, y1, x2, y2 = box
    if x2 <= x1 or y2 <= y1:
        return 'of no area'
    if x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
        return 'outside its image'
    return None


def has_valid_box(boxes: Iterable[Sequence[float]]) -> bool:
    """Whether any of the boxes (x1, y1, x2, y2) has both sides longer than one pixel."""
    return any(x2 - x1 > LEAST_SIDE and y2 - y1 > LEAST_SIDE for x1, y1, x2, y2 in boxes)


def check_objects(rows: Any, where: str) -> list[dict]:
    """A list of JSON objects, empty for None.

    Raises:
        ValueError: For anything else; ``where`` says what it is.
    """
    rows = [] if rows is None else rows
    if not isinstance(rows, list):
        raise ValueError(f'{where}: a list of objects is wanted, got {str(rows)[:40]!r}')
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise ValueError(f'{where}[{number}]: an object is wanted, got {str(row)[:40]!r}')
    return rows


def check_fields(rows: Sequence[dict], fields: Sequence[str], what: str, path: str) -> None:
    """See that every row of an annotation file has what is needed.

    Args:
        rows: Images or annotations, which may have an ``id``.
        fields: Names.
        what: What a row is called.
        path: Of the file.

    Raises:
        ValueError: Names the file, the first row that lacks one, and what it has.
    """
    for number, row in enumerate(rows):
        absent = [field for field in fields if field not in row]
        if absent:
            raise ValueError(
                f'{path}: {what} number {number} (id {row.get("id")}) has no '
                f'{", ".join(absent)}, only {", ".join(sorted(row))}; wanted are '
                f'{", ".join(fields)}'
            )


def group_annotations(
    content: dict,
    path: str,
    image_fields: Sequence[str] = ('id', 'height', 'width'),
    annotation_fields: Sequence[str] = ('image_id', 'bbox'),
) -> tuple[list[dict], dict[Any, list[dict]]]:
    """Images of a COCO-style file in the order of their ids, and the annotations of each.

    Args:
        content: Of the file.
        path: Of the file.
        image_fields, annotation_fields: What every image and annotation must have.

    Raises:
        ValueError: For images or annotations that lack a field, doubled image ids, or annotations
            of an unknown image.
    """
    check_fields(content['images'], image_fields, 'image', path)
    check_fields(content['annotations'], annotation_fields, 'annotation', path)
    images = sorted(content['images'], key=lambda image: image['id'])
    known = {image['id'] for image in images}
    if len(known) != len(images):
        doubled = Counter(image['id'] for image in images).most_common(1)[0][0]
        raise ValueError(f'{path}: several images have the id {doubled}')
    of_image: dict[Any, list[dict]] = defaultdict(list)
    for annotation in content['annotations']:
        if annotation['image_id'] not in known:
            raise ValueError(
                f'{path}: annotation {annotation.get("id")} belongs to the image '
                f'{annotation["image_id"]}, which is not listed'
            )
        of_image[annotation['image_id']].append(annotation)
    return images, of_image


class LeftOut(Counter):
    """Counts what is left out of a data set, and remembers the first case of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.first: dict[str, str] = {}

    def add(self, what: str, where: str) -> None:
        """Count one more; ``where`` says which annotation."""
        self[what] += 1
        self.first.setdefault(what, where)


def log_counts(path: str, num_samples: int, left_out: Counter) -> None:
    """Log how many samples a file has and what was left out of it."""
    first = getattr(left_out, 'first', {})
    rest = ', '.join(
        f'{number} {what}' + (f' (first: {first[what]})' if what in first else '')
        for what, number in sorted(left_out.items())
        if number
    )
    print_log(f'{path}: {num_samples} samples; left out: {rest or "nothing"}', 'current')
