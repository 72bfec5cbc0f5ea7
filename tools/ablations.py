"""Measures the paper's ablations in small, on Shapes, and writes docs/results_shapes.md.

    python tools/ablations.py                                    all variants, seeds 0 1 2: hours
    python tools/ablations.py --variants scratch coarse --seeds 0 1
    python tools/ablations.py --report-only                      the document, from what is there

The same command goes on where a killed one was. Numbers: WORK_DIR/results, one file per variant and
seed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import DictAction

import fiber_mm  # noqa: F401  (registers everything)
from fiber_mm.ablation import VARIANTS, AblationSettings, run_campaign, write_report
from fiber_mm.ablation.campaign import CampaignError
from fiber_mm.ablation.settings import DATA, REPORT, WORK_DIR
from fiber_mm.engine import CheckpointError, ConfigError, tune_cpu_allocator


def parse_args(argv: Sequence[str] | None = None) -> tuple[AblationSettings, bool]:
    """Read the command line: what to measure, and whether only the document is written."""
    names = '\n'.join(f'  {name:<20} {variant.title}' for name, variant in VARIANTS.items())
    parser = argparse.ArgumentParser(
        description=f'{__doc__}\nvariants:\n{names}',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--variants', nargs='+', default=list(VARIANTS), metavar='NAME')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2], metavar='N')
    parser.add_argument('--coarse-steps', type=int, help="steps; default: the config's")
    parser.add_argument('--fine-steps', type=int, help="steps; default: the config's")
    parser.add_argument('--work-dir', type=Path, default=WORK_DIR, help=f'default {WORK_DIR}')
    parser.add_argument('--data', type=Path, default=DATA, help=f'Shapes folder; default {DATA}')
    parser.add_argument(
        '--processes', type=int, help='processes that share a run; default: by the machine'
    )
    for name, what in (
        ('cfg', 'both configs'),
        ('coarse', 'the coarse config'),
        ('fine', 'the fine config'),
    ):
        parser.add_argument(
            f'--{name}-options',
            nargs='+',
            action=DictAction,
            default={},
            metavar='KEY=VALUE',
            help=f'settings that override those of {what}',
        )
    parser.add_argument(
        '--report', type=Path, default=REPORT, help=f'the document; default {REPORT}'
    )
    parser.add_argument(
        '--report-only', action='store_true', help='measure nothing, write the document'
    )
    args = vars(parser.parse_args(argv))
    report_only = args.pop('report_only')
    try:
        settings = AblationSettings(
            **{**args, 'variants': tuple(args['variants']), 'seeds': tuple(args['seeds'])}
        )
    except ValueError as error:
        parser.error(str(error))
    return settings, report_only


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and write the document."""
    settings, report_only = parse_args(argv)
    tune_cpu_allocator()
    try:
        if not report_only:
            run_campaign(settings)
        report = write_report(settings)
    except (CampaignError, ConfigError, CheckpointError, OSError) as error:
        sys.exit(f'error: {error}')
    print(f'report: {report}')


if __name__ == '__main__':
    main()
