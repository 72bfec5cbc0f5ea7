"""Evaluate a checkpoint with the test set and metrics of a config.

    python tools/test.py CONFIG CHECKPOINT [--out PREDICTIONS.pkl] [--show-dir DIR] [--tta]
    torchrun --nproc_per_node 8 tools/test.py CONFIG CHECKPOINT --launcher pytorch

Every weight of the model must be in the checkpoint and the other way round
(``--cfg-options load_strict=False`` takes what fits). The numbers also go to a JSON file in the
work folder.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config, ConfigDict, DictAction
from mmengine.evaluator import DumpResults
from mmengine.registry import RUNNERS

import fiber_mm  # noqa: F401  (registers everything)
from fiber_mm.engine import CheckpointError, ConfigError, explain_build_error, tune_cpu_allocator
from fiber_mm.engine.config import check_config


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint, .pth or .safetensors')
    parser.add_argument('--work-dir', help='folder for logs and numbers')
    parser.add_argument('--out', metavar='FILE.pkl', help='also write all predictions')
    parser.add_argument('--show-dir', metavar='DIR', help='draw predictions to WORK_DIR/TIME/DIR')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='settings that override the config, e.g. test_dataloader.batch_size=2 key="[a,b]"',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    # torch.distributed.launch passes it; torchrun sets the variable instead.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    args = parser.parse_args(argv)
    if args.out and not args.out.endswith(('.pkl', '.pickle')):
        parser.error(f'--out is a pickle file and ends with .pkl, got {args.out}')
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def load_config(args: argparse.Namespace) -> Config:
    """The config with what the command line says.

    Raises:
        ConfigError: a key is mistyped, or an option does not apply to this config.
    """
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
    cfg.load_from = args.checkpoint
    cfg.resume = False
    # Only testing: weights that the checkpoint lacks are an error.
    for key in ('train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler'):
        cfg.pop(key, None)
    if args.show_dir:
        hook = cfg.get('default_hooks', {}).get('visualization')
        if hook is None:
            raise ConfigError(
                "--show-dir needs default_hooks.visualization = dict(type='DetVisualizationHook')"
            )
        hook.update(draw=True, test_out_dir=args.show_dir)
    if args.tta:
        use_test_time_augmentation(cfg)
    cfg.setdefault('runner_type', 'FiberRunner')
    return cfg


def use_test_time_augmentation(cfg: Config) -> None:
    """Exchange model and pipeline for their augmented versions; default: mmdet's, flipped too."""
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    if 'tta_model' not in cfg:
        nms = dict(type='nms', iou_threshold=0.5)
        cfg.tta_model = dict(type='DetTTAModel', tta_cfg=dict(nms=nms, max_per_img=100))
    if 'tta_pipeline' not in cfg:
        *steps, pack = copy.deepcopy(dataset.pipeline)
        pack.meta_keys = (*pack.get('meta_keys', ()), 'flip', 'flip_direction')
        flips = [[dict(type='RandomFlip', prob=prob) for prob in (1.0, 0.0)], [pack]]
        cfg.tta_pipeline = [*steps, dict(type='TestTimeAug', transforms=flips)]
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    dataset.pipeline = cfg.tta_pipeline


def main(argv: Sequence[str] | None = None) -> dict:
    """Evaluate.

    Returns:
        The metrics.
    """
    args = parse_args(argv)
    tune_cpu_allocator()
    try:
        runner = RUNNERS.build(load_config(args))
        if args.out:
            runner.test_evaluator.metrics.append(dump_metric(runner, args.out))
        return runner.test()
    except (ConfigError, CheckpointError, FileNotFoundError) as error:
        sys.exit(f'error: {error}')
    except TypeError as error:
        explanation = explain_build_error(error)
        if explanation is None:
            raise
        raise ConfigError(explanation) from error


def dump_metric(runner, path: str) -> DumpResults:
    """The metric that collects predictions; mmdet's packs masks."""
    if runner.cfg.get('default_scope') == 'mmdet':
        from mmdet.evaluation import DumpDetResults

        return DumpDetResults(out_file_path=path)
    return DumpResults(out_file_path=path)


if __name__ == '__main__':
    main()
