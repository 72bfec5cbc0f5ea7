"""From an image folder and a list of captions to what the writers take, with a report.

The list is JSON lines, ``{"image": "a.jpg", "caption": "..."}``, or CSV with those columns;
``caption`` may be a list in JSON, and an image may have several rows in a row. ``image_id`` is
optional. Nothing that is left out is left out silently.
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

from PIL import Image
from tqdm import tqdm

from .annotations import read_json_lines
from .shards import IMAGE_SUFFIXES
from .transforms.image import UnreadableImageError, decode_image

UNREADABLE, EMPTY, DOUBLED, NO_CAPTION = (
    'unreadable image', 'empty caption', 'duplicate id', 'image without caption',
)  # fmt: skip
_SUFFIX = {'JPEG': 'jpg', 'PNG': 'png', 'WEBP': 'webp'}


class CaptionRow(NamedTuple):
    """An image and its captions, as listed: in JSON, image and captions may be anything."""

    where: str
    image: Any
    captions: list[Any]
    image_id: str


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
    """Rows of a list, neighbouring ones of the same image joined.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is neither, a line is no JSON, or image or caption are missing.
    """
    path = str(path)
    if not osp.isfile(path):
        raise FileNotFoundError(f'there is no list of captions {path}')
    suffix = osp.splitext(path)[1].lower()
    if suffix not in ('.jsonl', '.csv', '.tsv'):
        raise ValueError(f'a list of captions is a .jsonl, .csv or .tsv file, got {path}')
    lines = read_json_lines(path) if suffix == '.jsonl' else _csv_lines(path, suffix == '.tsv')
    for _, group in itertools.groupby((_row(where, line) for where, line in lines), _same_image):
        first, *others = group
        yield first._replace(captions=[c for row in (first, *others) for c in row.captions])


def _same_image(row: CaptionRow) -> tuple[str, str]:
    return row.image, row.image_id


def _csv_lines(path: str, tabs: bool) -> Iterator[tuple[str, dict]]:
    # Excel begins its UTF-8 files with a mark that is no part of the first column's name.
    with open(path, encoding='utf-8-sig', newline='') as file:
        reader = csv.DictReader(file, delimiter='\t' if tabs else ',')
        number = 0
        try:
            for line in reader:
                number = reader.line_num
                yield f'{path}:{number}', line
        except UnicodeDecodeError as error:
            raise ValueError(
                f'{path} is no UTF-8 text, somewhere after line {number}: {error}; save it as UTF-8'
            ) from error
        except csv.Error as error:
            raise ValueError(
                f'{path}: the row that begins in line {number + 1} cannot be read: {error}; is a '
                'quotation mark not closed?'
            ) from error


def _row(where: str, line: Any) -> CaptionRow:
    if not isinstance(line, dict):
        raise ValueError(
            f'{where} is no JSON object with image and caption, but {str(line)[:40]!r}'
        )
    missing = [key for key in ('image', 'caption') if line.get(key) is None]
    if missing:
        raise ValueError(
            f'{where} has no {missing}, only {sorted(k for k in line if k)}; a row has image and '
            'caption'
        )
    captions = line['caption'] if isinstance(line['caption'], list) else [line['caption']]
    image_id = line.get('image_id')
    if image_id in (None, ''):  # an empty field of a CSV file
        image_id = line['image']
    return CaptionRow(where, line['image'], captions, str(image_id))


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
        rejected.write(json.dumps(line, ensure_ascii=False) + '\n')

    def checked() -> Iterator[CaptionRow]:
        for row in rows:
            if row.image_id in ids:
                reject(row, DOUBLED)
                continue
            ids.add(row.image_id)
            if not isinstance(row.image, str):
                reject(row, UNREADABLE, f'image is {row.image!r}, the name of a file is wanted')
                continue
            captions = [c for c in row.captions if isinstance(c, str) and c.strip()]
            for caption in row.captions:
                if caption not in captions:
                    reject(row, EMPTY, repr(caption))
            if captions:
                yield row._replace(captions=list(dict.fromkeys(captions)))
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
    content = path.read_bytes()
    pixels = decode_image(content, str(path), as_released=True)
    with Image.open(io.BytesIO(content)) as image:
        suffix = _SUFFIX.get(image.format)
    if suffix in IMAGE_SUFFIXES:
        return content, suffix
    file = io.BytesIO()
    Image.fromarray(pixels[:, :, ::-1]).save(file, 'PNG')
    return file.getvalue(), 'png'
