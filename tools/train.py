"""Train any config, on one process or many.

    python tools/train.py CONFIG [--work-dir DIR] [--resume] [--cfg-options KEY=VALUE ...]
    torchrun --nproc_per_node 8 tools/train.py CONFIG --launcher pytorch

A run that was killed continues with ``--resume`` from its last checkpoint, and ends with the
weights that it would have had.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from mmengine.config import Config
from mmengine.registry import RUNNERS

import fiber_mm  # noqa: F401  (registers everything)
from fiber_mm.engine import ConfigError, find_last_checkpoint, tune_cpu_allocator
from fiber_mm.engine.command_line import (
    add_run_options,
    parse_run_args,
    plain_errors,
    read_run_config,
)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--amp',
        action='store_true',
        help='mixed precision: float16 with loss scaling on a GPU, bfloat16 on a CPU',
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help="scale the learning rate by the batch size, by the config's auto_scale_lr",
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='FILE',
        help='continue from a checkpoint; without FILE from the last one in the work folder, or '
        'begin as without --resume if there is none yet',
    )
    parser.add_argument('--seed', type=int, help='seed of everything that is random')
    add_run_options(parser)
    return parse_run_args(parser, argv)


def load_config(args: argparse.Namespace) -> Config:
    """The config with what the command line says.

    Raises:
        ConfigError: a key is mistyped, or an option does not apply to this config.
        CheckpointError: the last checkpoint to resume from is gone.
    """
    cfg = read_run_config(args)
    if args.seed is not None:
        cfg.setdefault('randomness', {})
        cfg.randomness.seed = args.seed
    if args.amp:
        if torch.cuda.is_available():
            cfg.optim_wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic')
        else:
            cfg.optim_wrapper.type = 'FiberBf16OptimWrapper'
            for key in ('loss_scale', 'dtype'):  # of AmpOptimWrapper
                cfg.optim_wrapper.pop(key, None)
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise ConfigError(
                '--auto-scale-lr needs auto_scale_lr = dict(base_batch_size=...) in the config'
            )
        cfg.auto_scale_lr.enable = True
    last = find_last_checkpoint(cfg.work_dir) if args.resume == 'auto' else args.resume
    if last:
        cfg.resume, cfg.load_from = True, last
    elif args.resume:  # killed before the first checkpoint: from the start weights once more
        cfg.resume = False
        print(f'{cfg.work_dir} has no checkpoint yet: starting from the beginning')
    return cfg


def main(argv: Sequence[str] | None = None) -> None:
    """Train."""
    args = parse_args(argv)
    tune_cpu_allocator()
    with plain_errors():
        RUNNERS.build(load_config(args)).train()


if __name__ == '__main__':
    main()
