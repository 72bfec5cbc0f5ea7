"""What the command lines of training and testing share."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmengine.config import Config, DictAction

from .block_cache import CacheError
from .checkpoint import CheckpointError
from .config import ConfigError, check_config, explain_build_error


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Options of every run: its folder, settings that override the config, the launcher."""
    parser.add_argument('--work-dir', help='folder for logs, checkpoints and numbers')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='settings that override the config, e.g. train_dataloader.batch_size=2 key="[a,b]"',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    # torch.distributed.launch passes it; torchrun sets the variable instead.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)


def parse_run_args(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None = None
) -> argparse.Namespace:
    """Read the command line, and make the local rank known."""
    args = parser.parse_args(argv)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def read_run_config(args: argparse.Namespace) -> Config:
    """The config with the options of :func:`add_run_options`.

    Args:
        args: they, and ``config``.

    Raises:
        ConfigError: there is no such file, a key is mistyped, or processes that belong together
            were started without a launcher.
    """
    together = int(os.environ.get('WORLD_SIZE', 1))
    if args.launcher == 'none' and together > 1:
        raise ConfigError(
            f'this is one of {together} processes (WORLD_SIZE), which without --launcher would '
            'each run on their own in one folder: add --launcher pytorch'
        )
    if not Path(args.config).is_file():
        raise ConfigError(f'there is no config file {args.config}')
    cfg = Config.fromfile(args.config)
    cfg.launcher = args.launcher
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    check_config(cfg)
    if args.work_dir:
        cfg.work_dir = args.work_dir
    elif not cfg.get('work_dir'):
        cfg.work_dir = str(Path('work_dirs') / Path(args.config).stem)
    cfg.setdefault('runner_type', 'FiberRunner')
    return cfg


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """End the program with one line for mistakes of the user, without a traceback."""
    try:
        yield
    except (ConfigError, CheckpointError, CacheError, FileNotFoundError) as error:
        sys.exit(f'error: {error}')
    except TypeError as error:
        explanation = explain_build_error(error)
        if explanation is None:
            raise
        sys.exit(f'error: {explanation}')
