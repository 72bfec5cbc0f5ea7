"""From an image folder and a list of captions to what the writers take, with a report.

The list is JSON lines, ``{"image": "a.jpg", "caption": "..."}``, or CSV with those columns;
``caption`` may be a list in JSON, and an image may have several rows, wherever they are.
``image_id`` is optional. Nothing that is left out is left out silently.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import os.path as osp
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
from PIL import Image
from tqdm import tqdm

from .annotations import read_json_lines
from .shards import IMAGE_SUFFIXES
from .transforms.image import UnreadableImageError, decode_image
from .writers import is_utf8

UNREADABLE, EMPTY, DOUBLED, NO_CAPTION, NO_UTF8, NO_UTF8_ID, SURPLUS = (
    'unreadable image', 'empty caption', 'duplicate id', 'image without caption',
    'caption that is no UTF-8', 'id that is no UTF-8', 'more fields than columns',
)  # fmt: skip
_SUFFIX = {'JPEG': 'jpg', 'PNG': 'png', 'WEBP': 'webp'}


class CaptionRow(NamedTuple):
    """An image with its captions.

    Attributes:
        where: Its first row, ``file:line``.
        image: As listed: in JSON, it may be anything.
        captions: Those that can be used.
        image_id: As listed, or the image.
        faults: Where, reason and detail of what cannot be used.
        doubled: Whether a row of another image, further up, has the same id.
    """

    where: str
    image: Any
    captions: list[str]
    image_id: str
    faults: list[tuple[str, str, str]]
    doubled: bool = False


@dataclass
class Report:
    """What became of the rows."""

    images: int = 0
    pairs: int = 0
    rejected: Counter = field(default_factory=Counter)

    def __str__(self) -> str:
        rest = ', '.join(f'{n} x {why}' for why, n in self.rejected.most_common()) or 'nothing'
        return f'{self.images} images with {self.pairs} captions written; rejected: {rest}'


def read_rows(path: str | Path) -> Iterator[CaptionRow]:
    """The images of a list, each with the captions of all its rows, wherever they are.

    Rows are of one image if ``image`` and ``image_id`` are the same. The list is read twice: once
    to count, so that then only images are kept whose last row is still to come.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is neither, cannot be read, or its first row has no image or no caption;
            names the line.
    """
    path = str(path)
    if not osp.isfile(path):
        raise FileNotFoundError(f'there is no list of captions {path}')
    if osp.splitext(path)[1].lower() not in ('.jsonl', '.csv', '.tsv'):
        raise ValueError(f'a list of captions is a .jsonl, .csv or .tsv file, got {path}')
    coming, doubled = _count(path)
    begun: dict[tuple[str, str], CaptionRow] = {}
    for row in _neighbours(path):
        key = _key(row)
        if key in begun:
            row = _joined(begun.pop(key), row)
        elif hash(key) in doubled:
            row = row._replace(doubled=True)
        coming_rows = coming.get(hash(key), 1) - 1
        if coming_rows:
            coming[hash(key)] = coming_rows
            begun[key] = row
        else:
            yield row
    yield from begun.values()  # those whose hashes are the same by chance


def _count(path: str) -> tuple[dict[int, int], set[int]]:
    """How many rows the images have that have several, and which images come after another of
    their id; by the hashes of their keys, which are 8 bytes where a key itself is some hundred.
    """
    hashes = np.fromiter(
        ((hash(key), hash(key[1])) for key in map(_key, _neighbours(path))), np.dtype((np.int64, 2))
    ).reshape(-1, 2)
    images, counts = np.unique(hashes[:, 0], return_counts=True)
    several = counts > 1
    _, first, ids = np.unique(hashes[:, 1], return_index=True, return_inverse=True)
    later = hashes[:, 0] != hashes[first[ids], 0]
    coming = dict(zip(images[several].tolist(), counts[several].tolist()))
    return coming, set(hashes[later, 0].tolist())


def _neighbours(path: str) -> Iterator[CaptionRow]:
    """Rows of a list, neighbouring ones of the same image joined."""
    lines = read_json_lines(path) if path.lower().endswith('.jsonl') else _csv_lines(path)
    for _, (first, *others) in itertools.groupby(_rows(lines), _key):
        for other in others:
            _joined(first, other)
        yield first


def _rows(lines: Iterable[tuple[str, Any]]) -> Iterator[CaptionRow]:
    """A row for each line. A list whose first row lacks a key is one of another kind."""
    for number, (where, line) in enumerate(lines):
        if not isinstance(line, dict):
            raise ValueError(
                f'{where} is no JSON object with image and caption, but {str(line)[:40]!r}'
            )
        missing = [key for key in ('image', 'caption') if key not in line]
        if missing and number == 0:
            there = sorted(key for key in line if key)
            raise ValueError(
                f'{where} has no {missing}, only {there}; a row has image and caption (in CSV, '
                'the first line has the names of the columns)'
            )
        yield _row(where, line)


def _key(row: CaptionRow) -> tuple[str, str]:
    return repr(row.image), row.image_id


def _joined(row: CaptionRow, other: CaptionRow) -> CaptionRow:
    """The first row, with the captions of both."""
    row.captions.extend(other.captions)
    row.faults.extend(other.faults)
    return row


def _csv_lines(path: str) -> Iterator[tuple[str, dict]]:
    tabs = path.lower().endswith('.tsv')
    hint = '' if tabs else '; is a quotation mark not closed?'
    # Excel begins its UTF-8 files with a mark that is no part of the first column's name.
    with open(path, encoding='utf-8-sig', newline='') as file:
        # Lists with tabs come from the web: a quotation mark is one, wherever it is.
        reader = csv.DictReader(
            file,
            delimiter='\t' if tabs else ',',
            quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL,
        )
        number = 0
        try:
            if reader.fieldnames:
                number = reader.line_num
            for line in reader:
                number = reader.line_num
                yield f'{path}:{number}', line
        except UnicodeDecodeError as error:
            raise ValueError(
                f'{path} is no UTF-8 text, somewhere after line {number}: {error}; save it as UTF-8'
            ) from error
        except csv.Error as error:
            raise ValueError(
                f'{path}:{number + 1}: the row that begins here cannot be read: {error}{hint}'
            ) from error


def _row(where: str, line: dict) -> CaptionRow:
    image, captions = line.get('image'), line.get('caption')
    captions = captions if isinstance(captions, list) else [captions]
    image_id = line.get('image_id')
    if image_id in (None, ''):  # an empty field of a CSV file
        image_id = where if image is None else image
    row = CaptionRow(where, image, [], str(image_id), [])
    if line.get(None):  # where a CSV reader puts fields beyond the last column
        detail = (
            f'beyond the last column: {line[None]}; quote captions that contain commas (in TSV, '
            'they have no tabs)'
        )
        row.faults.append((where, SURPLUS, detail))
        return row
    for caption in captions:
        if not isinstance(caption, str) or not caption.strip():
            row.faults.append((where, EMPTY, repr(caption)))
        elif not is_utf8(caption):
            row.faults.append((where, NO_UTF8, repr(caption)))
        else:
            row.captions.append(caption)
    return row


def write_rows(
    rows: Iterable[CaptionRow],
    folder: str | Path,
    write: Callable[[bytes, list[str], str, str], None],
    rejected: TextIO,
    workers: int = 4,
    progress: bool = True,
) -> Report:
    """Check rows and pass on what is good.

    Args:
        rows: see :func:`read_rows`.
        folder: Where the images lie.
        write: Called with the image file, its captions (each once), its id, and its suffix.
        rejected: Gets a JSON line for each rejection: where, image, image_id, reason, detail.
        workers: Threads that read and check images.
        progress: Show a progress bar.
    """
    report, ids = Report(), set()

    def reject(row: CaptionRow, reason: str, detail: str = '') -> None:
        report.rejected[reason] += 1
        line = dict(where=row.where, image=row.image, image_id=row.image_id, reason=reason,
                    detail=detail)  # fmt: skip
        text = json.dumps(line, ensure_ascii=False) + '\n'
        # What is no UTF-8 is written as \udc00, which JSON understands.
        rejected.write(text.encode('utf-8', 'backslashreplace').decode())

    def checked() -> Iterator[CaptionRow]:
        for row in rows:
            if row.doubled or row.image_id in ids:
                reject(row, DOUBLED, f'another image before it has this id; {_lost(row)}')
                continue
            ids.add(row.image_id)
            if not is_utf8(row.image_id):
                reject(row, NO_UTF8_ID, 'give the image another image_id')
                continue
            if not isinstance(row.image, str):
                detail = f'image is {row.image!r}, the name of a file is wanted; {_lost(row)}'
                reject(row, UNREADABLE, detail)
                continue
            for where, reason, detail in row.faults:
                reject(row._replace(where=where), reason, detail)
            if row.captions:
                yield row._replace(captions=list(dict.fromkeys(row.captions)))
            else:
                reject(row, NO_CAPTION)

    bar = tqdm(unit='img', disable=not progress)
    with bar, ThreadPoolExecutor(max(1, workers)) as pool:
        for row, future in _in_order(pool, checked(), Path(folder), 4 * max(1, workers)):
            try:
                content, suffix = future.result()
            except (UnreadableImageError, OSError) as error:
                reject(row, UNREADABLE, str(error))
            else:
                write(content, row.captions, row.image_id, suffix)
                report.images += 1
                report.pairs += len(row.captions)
            bar.set_postfix(rejected=report.rejected.total(), refresh=False)
            bar.update()
    return report


def _lost(row: CaptionRow) -> str:
    return f'{len(row.captions) + len(row.faults)} captions go with it'


def _in_order(
    pool: ThreadPoolExecutor, rows: Iterator[CaptionRow], folder: Path, ahead: int
) -> Iterator[tuple[CaptionRow, Future]]:
    """Rows with their images being read, never more than ``ahead`` at a time."""
    waiting: list[tuple[CaptionRow, Future]] = []
    for row in rows:
        waiting.append((row, pool.submit(_read_image, folder / row.image)))
        if len(waiting) >= ahead:
            yield waiting.pop(0)
    yield from waiting


def _read_image(path: Path) -> tuple[bytes, str]:
    """An image file that can be decoded, and its suffix; rare kinds become PNG."""
    try:
        content = path.read_bytes()
    except ValueError as error:
        raise UnreadableImageError(
            f'{str(path)!r} is no name that a file can have: {error}'
        ) from error
    pixels = decode_image(content, str(path), as_released=True)
    with Image.open(io.BytesIO(content)) as image:
        suffix = _SUFFIX.get(image.format)
    if suffix in IMAGE_SUFFIXES:
        return content, suffix
    file = io.BytesIO()
    Image.fromarray(pixels[:, :, ::-1]).save(file, 'PNG')
    return file.getvalue(), 'png'
