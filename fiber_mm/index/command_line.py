"""What the command lines of indexing and searching share."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import DictAction
from torch import nn

from fiber_mm.apis.inference import init_grounder
from fiber_mm.datasets.transforms.image import UnreadableImageError, read_image
from fiber_mm.engine.checkpoint import CheckpointError
from fiber_mm.visualization.sheet import Tile, contact_sheet

from .errors import ImageIndexError
from .image_index import Hit
from .store import CONFIG, IndexFolder

DEFAULT_INDEX = 'work_dirs/index'


def add_index_options(parser: argparse.ArgumentParser) -> None:
    """Options of both: the index, the model, the device."""
    parser.add_argument(
        '--index', default=DEFAULT_INDEX, metavar='DIR', help='the index (default: %(default)s)'
    )
    parser.add_argument('--config', help="the model's config (default: kept in the index)")
    parser.add_argument('--checkpoint', help='its weights (default: those of the index)')
    parser.add_argument('--device', help='default: an accelerator if there is one')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='settings that override the config, e.g. model.data_preprocessor.tokenizer=DIR',
    )


def load_model(args: argparse.Namespace, meta: Mapping[str, Any] | None) -> nn.Module:
    """The model that is asked for, or the one that the index was built with.

    Args:
        args: Options of :func:`add_index_options`.
        meta: What the index says about itself; None if there is none yet.

    Raises:
        ValueError: if neither says which model.
    """
    config, checkpoint = args.config, args.checkpoint
    kept = Path(args.index) / CONFIG
    if config is None and meta is not None and kept.is_file():
        config = str(kept)
    if checkpoint is None and meta is not None:
        checkpoint = meta['source'].get('checkpoint')
    for name, value in (('--config', config), ('--checkpoint', checkpoint)):
        if value is None:
            raise ValueError(f'which model? There is none in {args.index} yet: give {name}')
    return init_grounder(config, checkpoint, args.device, args.cfg_options)


def source_of(args: argparse.Namespace) -> dict[str, str]:
    """What the index keeps about where its model came from."""
    return {'checkpoint': os.path.abspath(args.checkpoint)} if args.checkpoint else {}


def old_meta(folder: str) -> dict[str, Any] | None:
    """What an index that is to be replaced says about itself; None if that cannot be read."""
    try:
        return IndexFolder(folder).meta()
    except ImageIndexError:
        return None


def printable(text: str) -> str:
    """A text as the terminal can show it: what it cannot becomes a question mark.

    File names need not be valid in the terminal's encoding, nor UTF-8.
    """
    encoding = sys.stdout.encoding or 'utf-8'
    return text.encode(encoding, 'replace').decode(encoding)


def table(hits: Sequence[Hit]) -> str:
    """Hits as lines of text."""
    rows = [('', 'similarity', 'match', 'image', '')]
    for number, hit in enumerate(hits, 1):
        match = '' if hit.match is None else f'{hit.match:.3f}'
        rows.append((str(number), f'{hit.similarity:.3f}', match, hit.path, hit.problem or ''))
    if all(hit.match is None for hit in hits):
        rows = [(a, b, d, e) for a, b, _, d, e in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    numbers = len(widths) - 1  # columns to the right; the path is one to the left
    lines = []
    for row in rows:
        cells = [cell.rjust(w) for cell, w in zip(row[:numbers], widths)]
        lines.append('  '.join([*cells, row[numbers].ljust(widths[numbers]), row[-1]]).rstrip())
    return '\n'.join(lines)


def as_rows(hits: Sequence[Hit]) -> list[dict[str, Any]]:
    """Hits for JSON."""
    return [
        dict(
            rank=rank,
            path=hit.path,
            file=str(hit.file),
            similarity=round(hit.similarity, 6),
            match=None if hit.match is None else round(hit.match, 6),
            problem=hit.problem,
        )
        for rank, hit in enumerate(hits, 1)
    ]


def sheet_of(hits: Sequence[Hit], title: str) -> np.ndarray:
    """Hits as a contact sheet: (H, W, 3) uint8, RGB; images that cannot be read stay empty."""
    tiles = []
    for number, hit in enumerate(hits, 1):
        scores = f'{number}.  similarity {hit.similarity:.3f}'
        if hit.match is not None:
            scores += f'  match {hit.match:.3f}'
        image, problem = None, hit.problem
        try:
            image = np.ascontiguousarray(read_image(str(hit.file))[..., ::-1])
        except (UnreadableImageError, OSError):
            problem = problem or 'cannot be read'
        tiles.append(Tile(image, [scores, hit.path, *([problem] if problem else [])]))
    return contact_sheet(tiles, title)


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """End the program with one line for what the user can mend, without a traceback."""
    try:
        yield
    except (
        ImageIndexError, CheckpointError, UnreadableImageError, ModuleNotFoundError, ValueError,
        OSError,
    ) as error:  # fmt: skip
        sys.exit(f'error: {error}')
