"""Generate a Shapes folder.

Example:
    python tools/make_shapes.py data/shapes --split train=2000,val=500 --seed 0 --preview
    python tools/make_shapes.py data/shapes --split train=2000,val=500 --formats arrow shards
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from fiber_mm.shapes import contact_sheet, generate_shapes
from fiber_mm.shapes.caption_files import FORMATS


def parse_splits(text: str, images: int) -> dict[str, int]:
    """'train=2000,val' -> {'train': 2000, 'val': images}."""
    splits: dict[str, int] = {}
    for part in text.split(','):
        name, equals, count = part.strip().partition('=')
        if not name or (equals and not count.isdigit()):
            raise argparse.ArgumentTypeError(f'{part!r}: want NAME=NUMBER, such as train=2000')
        if name in splits:
            raise argparse.ArgumentTypeError(f'split {name!r} is given twice')
        splits[name] = int(count) if equals else images
    return splits


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Generate a Shapes folder.')
    parser.add_argument('out', type=Path, help='folder to write')
    parser.add_argument(
        '--images',
        type=int,
        default=2000,
        help='training images; a quarter as many for val (default: %(default)s)',
    )
    parser.add_argument(
        '--split',
        nargs='+',
        metavar='NAME=N',
        help='splits and their numbers, set apart by commas or spaces; a NAME alone has --images',
    )
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--image-size', type=int, default=256, help='pixels (default: 256)')
    parser.add_argument(
        '--formats',
        nargs='+',
        default=[],
        choices=FORMATS,
        help='further files of captioned images; added to a folder that is there',
    )
    parser.add_argument('--workers', type=int, help='processes (default: one per core)')
    parser.add_argument(
        '--overwrite', action='store_true', help='replace a Shapes folder that is there'
    )
    parser.add_argument('--preview', action='store_true', help='draw OUT/preview.png')
    args = parser.parse_args(argv)
    if args.split:
        try:
            args.split = parse_splits(','.join(args.split), args.images)
        except argparse.ArgumentTypeError as error:
            parser.error(f'argument --split: {error}')
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    splits = args.split or {'train': args.images, 'val': max(1, args.images // 4)}
    start = time.perf_counter()
    try:
        written = generate_shapes(args.out, splits, args.seed, args.image_size,
                                  formats=args.formats, overwrite=args.overwrite,
                                  workers=args.workers)  # fmt: skip
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    seconds, total = time.perf_counter() - start, sum(splits.values())
    if written:
        print(f'{total} images in {seconds:.1f} s, {total / seconds:.0f} images/s: {args.out}')
    else:
        print(f'{args.out} is complete already')
    if args.preview:
        print(f'preview: {contact_sheet(args.out)}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
