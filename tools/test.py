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
import inspect
from collections.abc import Sequence

from mmdet.evaluation import MultiDatasetsEvaluator
from mmengine.config import Config, ConfigDict
from mmengine.evaluator import DumpResults
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

import fiber_mm  # noqa: F401  (registers everything)
from fiber_mm.engine import ConfigError, tune_cpu_allocator
from fiber_mm.engine.command_line import (
    add_run_options,
    parse_run_args,
    plain_errors,
    read_run_config,
)
from fiber_mm.registry import TRANSFORMS


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint, .pth or .safetensors')
    parser.add_argument('--out', metavar='FILE.pkl', help='also write all predictions')
    parser.add_argument('--show-dir', metavar='DIR', help='draw predictions to WORK_DIR/TIME/DIR')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    add_run_options(parser)
    args = parse_run_args(parser, argv)
    if args.out and not args.out.endswith(('.pkl', '.pickle')):
        parser.error(f'--out is a pickle file and ends with .pkl, got {args.out}')
    return args


def load_config(args: argparse.Namespace) -> Config:
    """The config with what the command line says.

    Raises:
        ConfigError: a key is mistyped, or an option does not apply to this config.
    """
    cfg = read_run_config(args)
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
        if hook.get('type') == 'DetVisualizationHook':  # of several texts of an image it keeps one
            hook.type = 'FiberVisualizationHook'
    if args.tta:
        use_test_time_augmentation(cfg)
    return cfg


def use_test_time_augmentation(cfg: Config) -> None:
    """Exchange model and pipeline for their augmented versions; default: flipped, too."""
    dataset = cfg.test_dataloader.dataset
    while 'pipeline' not in dataset and 'dataset' in dataset:
        dataset = dataset.dataset
    if 'pipeline' not in dataset:
        raise ConfigError(
            f'--tta does not find the pipeline of {dataset.type}: several data sets share one in '
            'FiberConcatDataset(pipeline=..., datasets=[...])'
        )
    if 'tta_model' not in cfg:
        nms = dict(type='nms', iou_threshold=0.5)
        cfg.tta_model = dict(type='FiberDetTTAModel', tta_cfg=dict(nms=nms, max_per_img=100))
    if 'tta_pipeline' not in cfg:
        *steps, pack = copy.deepcopy(dataset.pipeline)
        pack.meta_keys = (*_meta_keys(pack), 'flip', 'flip_direction')
        flips = [[dict(type='RandomFlip', prob=prob) for prob in (1.0, 0.0)], [pack]]
        cfg.tta_pipeline = [*steps, dict(type='TestTimeAug', transforms=flips)]
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    dataset.pipeline = cfg.tta_pipeline


def _meta_keys(pack: ConfigDict) -> Sequence[str]:
    """Those of a packing step, or of its class."""
    if 'meta_keys' in pack:
        return pack.meta_keys
    default = inspect.signature(TRANSFORMS.get(pack.type)).parameters.get('meta_keys')
    return () if default is None else default.default


def main(argv: Sequence[str] | None = None) -> dict:
    """Evaluate.

    Returns:
        The metrics.
    """
    args = parse_args(argv)
    tune_cpu_allocator()
    with plain_errors():
        runner = RUNNERS.build(load_config(args))
        if args.out:
            keep_predictions(runner, args.out)
        return runner.test()


def keep_predictions(runner: Runner, path: str) -> None:
    """Let the evaluator write all predictions."""
    evaluator, metric = runner.test_evaluator, dump_metric(runner, path)
    evaluator.metrics.append(metric)
    if isinstance(evaluator, MultiDatasetsEvaluator):
        evaluate = evaluator.evaluate

        def evaluate_all(size: int) -> dict:
            found = evaluate(size)  # one metric for each data set, and no more
            metric.evaluate(size)
            return found

        evaluator.evaluate = evaluate_all


def dump_metric(runner: Runner, path: str) -> DumpResults:
    """The metric that collects predictions; mmdet's packs masks."""
    if runner.cfg.get('default_scope') == 'mmdet':
        from mmdet.evaluation import DumpDetResults

        return DumpDetResults(out_file_path=path)
    return DumpResults(out_file_path=path)


if __name__ == '__main__':
    main()
