"""Draw where a model sees the phrases of a caption; no box was needed to train it.

    python tools/heatmap.py photo.jpg --text "a red circle above two blue squares" \
        --phrase "red circle" --phrase "blue squares" --model CONFIG --checkpoint MODEL.pth
    python tools/heatmap.py photo.jpg --phrase "red circle" --model CONFIG --checkpoint MODEL.pth

Without --phrase the noun phrases of the text are found by rules; without --text every phrase is
read by itself. docs/heatmaps.md says what the maps are.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import DictAction
from PIL import Image

from fiber_mm.apis import FiberHeatmap
from fiber_mm.engine import CheckpointError, ConfigError, tune_cpu_allocator
from fiber_mm.evaluation.functional import peak
from fiber_mm.models.multimodal.heatmap import DIRECTIONS, METHODS
from fiber_mm.visualization import draw_heatmaps


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('image', help='image file')
    parser.add_argument('--text', help='caption that the model reads')
    parser.add_argument('--phrase', action='append', help='words to look for; may be repeated')
    parser.add_argument('--model', required=True, metavar='CONFIG', help='config, or its name')
    parser.add_argument('--checkpoint', required=True, help='weights, .pth or .safetensors')
    parser.add_argument('--out', type=Path, default=Path('heatmap.png'), help='picture to write')
    parser.add_argument('--method', choices=METHODS, default='attention')
    parser.add_argument('--direction', choices=tuple(DIRECTIONS), default='both')
    parser.add_argument(
        '--blocks',
        nargs='+',
        default=['last'],
        metavar='BLOCK',
        help="'last', 'all', or numbers of fused pairs from 0",
    )
    parser.add_argument('--device', help='where to run; default: an accelerator if there is one')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='settings that override the config, e.g. model.data_preprocessor.tokenizer=FOLDER',
    )
    args = parser.parse_args(argv)
    if args.text is None and args.phrase is None:
        parser.error('--text, --phrase, or both are wanted')
    if args.blocks in (['last'], ['all']):
        (args.blocks,) = args.blocks
    else:
        try:
            args.blocks = [int(block) for block in args.blocks]
        except ValueError:
            parser.error(f"--blocks are 'last', 'all' or numbers, got {' '.join(args.blocks)}")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the picture, and print where each phrase is seen."""
    args = parse_args(argv)
    tune_cpu_allocator()
    try:
        heatmap = FiberHeatmap(
            args.model,
            args.checkpoint,
            args.method,
            args.blocks,
            args.direction,
            args.device,
            args.cfg_options,
        )
        seen = heatmap(args.image, args.text, args.phrase)
    except (ConfigError, CheckpointError, FileNotFoundError, ValueError, TypeError) as error:
        sys.exit(f'error: {error}')
    args.out.parent.mkdir(parents=True, exist_ok=True)
    picture = draw_heatmaps(seen.image, seen.maps, seen.phrases, seen.caption)
    Image.fromarray(picture).save(args.out)
    for phrase, one in zip(seen.phrases, seen.maps):
        place = peak(one)
        where = 'no place stands out' if place is None else f'x {place[1]}, y {place[0]}'
        print(f'{phrase}: {where}')
    print(f'picture: {args.out}')


if __name__ == '__main__':
    main()
