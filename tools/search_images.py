"""Find the images of an index that suit a text, or another image.

    python tools/search_images.py "a red circle above two blue squares" [--rerank K]
    python tools/search_images.py --image photo.jpg

Prints a table and draws the images found. The fused blocks look at the K most similar images again
and sort them by whether they match the text, if the model has learnt matching. Make the index with
tools/index_images.py.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

import fiber_mm  # noqa: F401  (registers everything)
from fiber_mm.engine import tune_cpu_allocator
from fiber_mm.index import Hit, ImageIndex
from fiber_mm.index.command_line import (
    add_index_options,
    as_rows,
    load_model,
    plain_errors,
    printable,
    sheet_of,
    table,
)
from fiber_mm.index.image_index import read_meta

#: Images that are looked at again, where nothing else is said.
RERANKED = 50


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('text', nargs='?', help='what to look for')
    parser.add_argument('--image', metavar='FILE', help='look for images like this one instead')
    add_index_options(parser)
    parser.add_argument('-k', type=int, default=10, help='images to show (default: %(default)s)')
    parser.add_argument(
        '--rerank',
        type=int,
        metavar='K',
        help='sort the best K anew by whether image and text match; 0: do not (default: '
        f'{RERANKED} where the model can)',
    )
    parser.add_argument('--images', metavar='DIR', help='where the images are, if they were moved')
    parser.add_argument(
        '--sheet',
        default='work_dirs/search.png',
        metavar='FILE',
        help='picture of the images found; "" for none (default: %(default)s)',
    )
    parser.add_argument('--json', action='store_true', help='print JSON instead of a table')
    args = parser.parse_args(argv)
    if (args.text is None) == (args.image is None):
        parser.error('give a text or --image FILE, one of them')
    suffix = Path(args.sheet).suffix.lower()
    if args.sheet and suffix not in Image.registered_extensions():
        parser.error(f"--sheet {args.sheet}: '{suffix}' is no kind of picture; name a .png or .jpg")
    if args.image and args.rerank:
        parser.error('--rerank asks whether an image matches a text: it does not go with --image')
    return args


def main(argv: Sequence[str] | None = None) -> list[Hit]:
    """Search.

    Returns:
        What was found.
    """
    args = parse_args(argv)
    tune_cpu_allocator()
    with plain_errors():
        index = ImageIndex(args.index, load_model(args, read_meta(args.index)), args.images)
        if args.image:
            hits = index.search_image(args.image, args.k)
        else:
            if args.rerank is None:
                args.rerank = 0 if index.embedder.lacking else RERANKED
            hits = index.search(args.text, args.k, args.rerank)
    if args.json:
        query = {'image': args.image} if args.image else {'text': args.text}
        answer = dict(query, index=args.index, rerank=args.rerank or 0, hits=as_rows(hits))
        print(json.dumps(answer, indent=1))
    else:
        print(printable(table(hits)))
    if args.sheet and hits:
        with plain_errors():
            write_sheet(args.sheet, hits, args.text or args.image)
        if not args.json:
            print(printable(f'picture: {args.sheet}'))
    return hits


def write_sheet(path: str, hits: Sequence[Hit], title: str) -> None:
    """Draw what was found; an error names the file."""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sheet_of(hits, title)).save(path)
    except OSError as error:
        raise OSError(f'the picture {path} cannot be written: {error}') from error


if __name__ == '__main__':
    main()
