"""Make a folder of images searchable by words, or bring its index up to date.

    python tools/index_images.py FOLDER --config CONFIG --checkpoint W.pth [--index DIR]
    python tools/index_images.py FOLDER          # later: new, changed and deleted images

A run that was stopped goes on where it was when it is started again. Search the index with
tools/search_images.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import fiber_mm  # noqa: F401  (registers everything)
from fiber_mm.engine import tune_cpu_allocator
from fiber_mm.index import ImageIndex
from fiber_mm.index.command_line import (
    add_index_options,
    load_model,
    old_meta,
    plain_errors,
    printable,
    source_of,
)
from fiber_mm.index.embed import PRECISIONS
from fiber_mm.index.store import IndexFolder
from fiber_mm.index.update import ON_ERROR

SHOWN = 20


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('images', metavar='FOLDER', help='images, those in folders below included')
    add_index_options(parser)
    parser.add_argument('--size', type=int, help='side of the squares (default: of the config)')
    parser.add_argument('--precision', choices=PRECISIONS, help='default: fp32')
    parser.add_argument(
        '--factory', metavar='KIND', help='string of faiss.index_factory (default: Flat, exact)'
    )
    parser.add_argument('--batch-size', type=int, default=32)
    parser.add_argument('--workers', type=int, default=2, help='processes that read images')
    parser.add_argument(
        '--on-error',
        choices=ON_ERROR,
        default='raise',
        help='what to do about images and folders that cannot be read (default: %(default)s)',
    )
    parser.add_argument('--overwrite', action='store_true', help='replace an index that is there')
    parser.add_argument(
        '--relocate', action='store_true', help='the images of the index were moved to FOLDER'
    )
    args = parser.parse_args(argv)
    for name in ('size', 'batch_size'):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f'--{name.replace("_", "-")} must be at least 1, got {value}')
    return args


def main(argv: Sequence[str] | None = None) -> ImageIndex:
    """Build or update the index.

    Returns:
        It.
    """
    args = parse_args(argv)
    tune_cpu_allocator()
    with plain_errors():
        meta = old_meta(args.index) if args.overwrite else IndexFolder(args.index).meta()
        model = load_model(args, meta)
        settings: dict = {}
        if meta is not None and args.config is None:  # it does not keep the config's pipelines
            settings = meta['settings']
        index = ImageIndex.build(
            args.index,
            args.images,
            model,
            size=args.size or settings.get('size'),
            precision=args.precision or settings.get('precision'),
            factory=args.factory,
            batch_size=args.batch_size,
            workers=args.workers,
            on_error=args.on_error,
            overwrite=args.overwrite,
            relocate=args.relocate,
            source=source_of(args) or (meta or {}).get('source'),
        )
    print(printable(f'{args.index}: {index.report}'))
    for note in index.report.notes:
        print(printable(note))
    skipped = list(index.report.skipped.values())
    for fault in skipped[:SHOWN]:
        print(f'skipped: {fault}', file=sys.stderr)
    if len(skipped) > SHOWN:
        print(f'and {len(skipped) - SHOWN} more: {args.index}/skipped.jsonl', file=sys.stderr)
    return index


if __name__ == '__main__':
    main()
