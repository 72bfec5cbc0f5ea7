"""An image folder and a list of captions to arrow tables or tar shards.

The list is UTF-8: JSON lines, {"image": "a.jpg", "caption": "text" or ["text", ...]}; or CSV, whose
first line names the columns image and caption; or TSV, the same with tabs and without quotation
marks around fields. In CSV, captions that contain commas are quoted. image_id is optional.

Rows with the same image and image_id are one image, wherever they are. Without image_id the name of
the image is its id; of different images with one id, the first is taken.

What is rejected (unreadable image, no image, no or an empty caption, caption or id that is no UTF-8,
more fields than columns, duplicate id) is counted, and listed with line and reason in
OUT/NAME.rejected.jsonl. Files appear when all rows are converted; what --overwrite replaces stays
until then.

Example:
    python tools/dataset_converters/captions.py captions.jsonl images/ data/arrow --to arrow --name sbu_0
    python tools/dataset_converters/captions.py captions.csv images/ data/cc3m --to shards --name train
"""  # noqa: E501

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from pathlib import Path

from fiber_mm.datasets.caption_rows import Report, read_rows, write_rows
from fiber_mm.datasets.writers import INDEX, ArrowWriter, ShardWriter, read_index, write_index


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('captions', type=Path, help='.jsonl, .csv or .tsv')
    parser.add_argument('images', type=Path, help='folder that the image names are in')
    parser.add_argument('out', type=Path, help='folder to write to')
    parser.add_argument('--to', choices=('arrow', 'shards'), required=True)
    parser.add_argument('--name', default='train', help='OUT/NAME.arrow, or OUT/NAME-000000.tar')
    parser.add_argument('--split', default='train', help='what the column split of a table says')
    parser.add_argument('--per-shard', type=int, default=1000, help='images per tar shard')
    parser.add_argument('--workers', type=int, default=4, help='threads that check images')
    parser.add_argument('--overwrite', action='store_true', help='replace files of that name')
    return parser.parse_args(argv)


def convert(args: argparse.Namespace) -> Report:
    if not args.images.is_dir():
        raise FileNotFoundError(f'there is no image folder {args.images}')
    end = r'\.arrow' if args.to == 'arrow' else r'-\d{6,}\.tar'
    args.out.mkdir(parents=True, exist_ok=True)
    wanted = re.compile(re.escape(args.name) + end)
    there = sorted(path for path in args.out.iterdir() if wanted.fullmatch(path.name))
    if there and not args.overwrite:
        raise FileExistsError(f'{there[0]} is there already: choose another --name or --overwrite')
    if args.to == 'shards':
        read_index(args.out / INDEX)  # a faulty one is found before the work
    with rejected_rows(args).open('w', encoding='utf-8') as file:
        rows = read_rows(args.captions)
        if args.to == 'arrow':
            with ArrowWriter(args.out / f'{args.name}.arrow') as writer:
                report = write_rows(
                    rows, args.images,
                    lambda image, texts, id_, suffix: writer.add(image, texts, id_, args.split),
                    file, args.workers,
                )  # fmt: skip
                return _not_empty(report, args)
        aside = args.out / f'.{args.name}.partial'
        shutil.rmtree(aside, ignore_errors=True)  # of a conversion that was killed
        try:
            with ShardWriter(aside, args.name, args.per_shard) as writer:
                numbers = iter(range(10**9))
                report = write_rows(
                    rows, args.images,
                    lambda image, texts, id_, suffix: writer.add(
                        f'{next(numbers):09d}', image, texts, id_, suffix
                    ),
                    file, args.workers,
                )  # fmt: skip
                _not_empty(report, args)
            for path in there:
                path.unlink()
            for shard in writer.shards:
                os.replace(aside / shard['url'], args.out / shard['url'])
            write_index(args.out, writer.shards)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return report


def _not_empty(report: Report, args: argparse.Namespace) -> Report:
    if not report.images:
        raise ValueError(f'no image was written: {report}; see {rejected_rows(args)}')
    return report


def rejected_rows(args: argparse.Namespace) -> Path:
    """The list of rejected rows."""
    return args.out / f'{args.name}.rejected.jsonl'


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        report = convert(args)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    print(report)
    if report.rejected:
        print(f'rejected rows: {rejected_rows(args)}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
