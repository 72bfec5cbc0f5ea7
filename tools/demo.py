"""The whole way from nothing to a report, or a trained model on your own images.

    python tools/demo.py            data, both stages of training, evaluation, pictures, report
    python tools/demo.py --resume   go on where an interrupted demo stopped
    python tools/demo.py --coarse-steps 3000 --steps 6000   the same with longer trainings
    python tools/demo.py --image photo.jpg --text "red circle . blue square"
    python tools/demo.py --image photo.jpg --text "a small star above two rings"

A text is a list of classes if its parts are set apart by " . ", else a caption; the phrases of a
caption are found by rules, or given as character spans with --tokens-positive.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import DictAction

import fiber_mm  # noqa: F401  (registers everything)
from fiber_mm.demo.own_images import ground_files, load_model
from fiber_mm.demo.settings import (
    COARSE_CONFIG,
    COARSE_STEPS,
    CONFIG,
    TARGETS,
    TITLES,
    WORK_DIR,
    DemoSettings,
)
from fiber_mm.demo.steps import run_demo
from fiber_mm.engine import CheckpointError, ConfigError, tune_cpu_allocator


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--work-dir', type=Path, default=WORK_DIR, help='folder of the demo')
    whole = parser.add_argument_group('the whole demo')
    whole.add_argument('--seed', type=int, help='seed of the training')
    whole.add_argument('--resume', action='store_true', help='keep what is finished already')
    whole.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        metavar='KEY=VALUE',
        help='settings that override the config',
    )
    whole.add_argument(
        '--processes', type=int, help='processes that share the work; default: by the machine'
    )
    whole.add_argument(
        '--coarse-steps',
        type=int,
        default=COARSE_STEPS,
        metavar='N',
        help='steps of the coarse stage, training on captions; 0: without it; default %(default)s',
    )
    whole.add_argument(
        '--steps',
        type=int,
        metavar='N',
        help="steps of the fine stage, training on boxes and phrases; default: the config's",
    )
    whole.add_argument(
        '--coarse-config', default=COARSE_CONFIG, help=f'config of that; default {COARSE_CONFIG}'
    )
    own = parser.add_argument_group('your own images and words')
    own.add_argument('--image', nargs='+', default=[], metavar='FILE', help='images')
    own.add_argument(
        '--text', action='append', default=[], help='classes or a caption; may be repeated'
    )
    own.add_argument(
        '--tokens-positive',
        metavar='JSON',
        help='spans of the phrases of a caption, e.g. "[[[0, 12]], [[19, 28]]]"; '
        '-1: the caption is one phrase',
    )
    own.add_argument(
        '--classes',
        action='store_true',
        help='the text is a list of classes, even without " . "',
    )
    own.add_argument('--score-thr', type=float, default=0.3, help='least score of a box')
    own.add_argument('--out', type=Path, help='folder for the results; default WORK_DIR/own')
    own.add_argument('--device', help='where to run; default: an accelerator if there is one')
    parser.add_argument('--config', help=f'config to train or to use; default {CONFIG}')
    own.add_argument('--checkpoint', help='weights; default: those that the demo trained')
    args = parser.parse_args(argv)
    if bool(args.image) != bool(args.text):
        parser.error('--image and --text belong together')
    if not args.image and (args.checkpoint or args.tokens_positive or args.out):
        parser.error('--checkpoint, --tokens-positive and --out need --image and --text')
    if args.steps is not None and args.steps < 1:
        parser.error(f'--steps must be 1 or more, got {args.steps}')
    if args.coarse_steps < 0:
        parser.error(f'--coarse-steps must be 0 or more, got {args.coarse_steps}')
    if args.tokens_positive:
        args.tokens_positive = _spans(parser, args.tokens_positive)
        if args.classes:
            parser.error('--classes and --tokens-positive exclude each other')
        if len(args.text) > 1 and args.tokens_positive != -1:
            parser.error('--tokens-positive are the spans of one text, --text is repeated')
    return args


def _spans(parser: argparse.ArgumentParser, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        parser.error(f'--tokens-positive is no JSON: {error}; e.g. "[[[0, 12]], [[19, 28]]]"')


def main(argv: Sequence[str] | None = None) -> None:
    """Run the demo."""
    args = parse_args(argv)
    tune_cpu_allocator()
    settings = DemoSettings(
        work_dir=args.work_dir,
        config=args.config or CONFIG,
        seed=args.seed,
        resume=args.resume,
        cfg_options=args.cfg_options,
        processes=args.processes,
        steps=args.steps,
        coarse_steps=args.coarse_steps,
        coarse_config=args.coarse_config,
    )
    try:
        if args.image:
            _own_images(args, settings)
        else:
            _whole_demo(settings)
    except (ConfigError, CheckpointError, FileNotFoundError, FileExistsError) as error:
        sys.exit(f'error: {error}')


def _own_images(args: argparse.Namespace, settings: DemoSettings) -> None:
    out = args.out or settings.work_dir / 'own'
    try:
        model = load_model(args.config, args.checkpoint, settings, args.device)
        rows = ground_files(
            model,
            args.image,
            args.text,
            out,
            args.tokens_positive,
            True if args.classes else None,
            args.score_thr,
        )
    except (ValueError, TypeError) as error:  # a faulty image, text or span
        sys.exit(f'error: {error}')
    for row in rows:
        print(f'{row["image"]}, {row["text"]!r}: {len(row["detections"])} boxes, {row["picture"]}')
        for found in row['detections']:
            print(f'  {found["score"]:.2f}  {found["name"]}  {found["box"]}')
    print(f'results: {out / "results.json"}')


def _whole_demo(settings: DemoSettings) -> None:
    metrics = run_demo(settings)
    print()
    for name, goal in TARGETS.items():
        verdict = 'reached' if metrics['reached'][name] else 'not reached'
        score = 'undefined' if metrics[name] is None else f'{metrics[name]:.3f}'
        print(f'{TITLES[name]:<26} {score}   target {goal:.2f} {verdict}')
    if 'coarse' in metrics:
        found, maps = metrics['coarse']['retrieval'], metrics['coarse']['heatmaps']
        for name, title in (('TR@1', 'Captions of an image'), ('IR@1', 'Image of a caption')):
            print(
                f'{title:<26} {found[f"itc/{name}"]:.3f}   '
                f're-ranked {found[f"itm_rerank/{name}"]:.3f} chance {found["chance"]:.3f}'
            )
        if 'pointing' in maps:
            print(f'{"Phrases pointed at":<26} {maps["pointing"]:.3f}   '
                  f'chance {maps["pointing_chance"]:.3f}')  # fmt: skip
    print(f'\nnumbers: {settings.metrics}\nreport:  {settings.report}')


if __name__ == '__main__':
    main()
