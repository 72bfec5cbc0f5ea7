"""tools/train.py and tools/test.py on the toy run."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmdet.evaluation import MultiDatasetsEvaluator
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.optim import build_optim_wrapper
from mmengine.structures import InstanceData
from mmengine.visualization import Visualizer
from test_engine import toy_training as toy
from tool_loader import load_tool

from fiber_mm.config_lookup import get_config_path
from fiber_mm.engine import FiberVisualizationHook


def write_config(folder: Path, **changes) -> Path:
    cfg = toy.config(folder / 'unused', validate=True, max_iters=4)
    for key in ('work_dir', 'resume', 'launcher'):
        cfg.pop(key)
    cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator
    cfg.test_cfg = dict()
    for key, value in changes.items():
        cfg[key] = value
    path = folder / 'toy_config.py'
    cfg.dump(path)
    return path


def train(*args) -> None:
    load_tool('train').main([str(arg) for arg in args])


def evaluate(*args) -> dict:
    return load_tool('test').main([str(arg) for arg in args])


def test_train_then_test(tmp_path):
    config, work = write_config(tmp_path), tmp_path / 'work'
    train(config, '--work-dir', work, '--seed', 5)
    checkpoint = work / 'iter_4.pth'
    state = toy.last_state(work)
    assert (state['meta']['iter'], state['meta']['seed']) == (4, 5)

    out = tmp_path / 'predictions.pkl'
    metrics = evaluate(config, checkpoint, '--work-dir', tmp_path / 'eval', '--out', out)
    assert metrics.keys() == {'toy/error'}
    with out.open('rb') as file:
        assert len(pickle.load(file)) == 8
    (numbers,) = [p for p in (tmp_path / 'eval').glob('*/*.json') if p.parent.name == p.stem]
    assert json.loads(numbers.read_text())['toy/error'] == pytest.approx(metrics['toy/error'])


class Count(BaseMetric):
    """How many samples a data set has."""

    def process(self, data_batch, data_samples):
        self.results += data_samples

    def compute_metrics(self, results):
        return dict(count=len(results))


def test_predictions_of_several_test_sets_are_kept(tmp_path):
    evaluator = MultiDatasetsEvaluator([Count(), Count()], dataset_prefixes=['a', 'b'])
    evaluator.dataset_meta = dict(cumulative_sizes=[2, 5])
    runner = SimpleNamespace(test_evaluator=evaluator, cfg=dict(default_scope='mmdet'))
    load_tool('test').keep_predictions(runner, str(tmp_path / 'all.pkl'))
    evaluator.process([dict(img_id=i) for i in range(5)])
    assert evaluator.evaluate(5) == {'a/count': 2, 'b/count': 3}
    with (tmp_path / 'all.pkl').open('rb') as file:
        assert [row['img_id'] for row in pickle.load(file)] == [0, 1, 2, 3, 4]


def test_train_resumes(tmp_path, monkeypatch):
    config = write_config(tmp_path)
    train(config, '--work-dir', tmp_path / 'a', '--cfg-options', 'train_cfg.max_iters=8')
    save = toy.FiberRunner.save_checkpoint

    def stop(self, out_dir, filename, *args, **kwargs):
        if filename == 'iter_8.pth':
            raise KeyboardInterrupt
        save(self, out_dir, filename, *args, **kwargs)

    monkeypatch.setattr(toy.FiberRunner, 'save_checkpoint', stop)
    with pytest.raises(KeyboardInterrupt):
        train(config, '--work-dir', tmp_path / 'b', '--cfg-options', 'train_cfg.max_iters=8')
    monkeypatch.setattr(toy.FiberRunner, 'save_checkpoint', save)
    train(config, '--work-dir', tmp_path / 'b', '--cfg-options', 'train_cfg.max_iters=8',
          '--resume')  # fmt: skip
    toy.assert_same_training(toy.last_state(tmp_path / 'b'), toy.last_state(tmp_path / 'a'))


def load(name: str, *args) -> Config:
    module = load_tool(name)
    return module.load_config(module.parse_args([str(arg) for arg in args]))


def test_options_reach_the_config(tmp_path, monkeypatch):
    config = write_config(tmp_path)
    cfg = load('train', config, '--resume', 'x.pth', '--amp')
    assert (cfg.resume, cfg.load_from) == (True, 'x.pth')
    assert cfg.work_dir == 'work_dirs/toy_config'
    assert cfg.runner_type == 'FiberRunner'
    wanted = 'AmpOptimWrapper' if torch.cuda.is_available() else 'FiberBf16OptimWrapper'
    assert cfg.optim_wrapper.type == wanted
    released = load('train', get_config_path('fiber_swin-b_finetune_16xb2_24e_coco'), '--amp')
    assert released.optim_wrapper.get('loss_scale') == (
        'dynamic' if torch.cuda.is_available() else None
    )
    build_optim_wrapper(torch.nn.Linear(1, 1), released.optim_wrapper)
    scaled = write_config(tmp_path, auto_scale_lr=dict(base_batch_size=16))
    assert load('train', scaled, '--auto-scale-lr').auto_scale_lr.enable


def test_resume_before_the_first_checkpoint_keeps_the_start_weights(tmp_path, capsys):
    config = write_config(tmp_path, load_from='start.pth')
    options = (config, '--resume', '--work-dir', tmp_path / 'run')
    cfg = load('train', *options)
    assert (cfg.resume, cfg.load_from) == (False, 'start.pth')
    assert 'has no checkpoint yet' in capsys.readouterr().out
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'iter_4.pth').touch()
    (tmp_path / 'run' / 'last_checkpoint').write_text('elsewhere/iter_4.pth')
    cfg = load('train', *options)
    assert (cfg.resume, cfg.load_from) == (True, str(tmp_path / 'run' / 'iter_4.pth'))


def test_show_dir_turns_drawing_on(tmp_path):
    hooks = dict(visualization=dict(type='DetVisualizationHook'))
    cfg = load('test', write_config(tmp_path, default_hooks=hooks), 'c.pth', '--show-dir', 'shown')
    assert cfg.default_hooks.visualization.draw
    assert cfg.default_hooks.visualization.test_out_dir == 'shown'
    assert cfg.default_hooks.visualization.type == 'FiberVisualizationHook'


def test_every_text_of_an_image_is_drawn(tmp_path):
    image = tmp_path / 'a.jpg'
    assert cv2.imwrite(str(image), np.zeros((32, 48, 3), np.uint8))
    Visualizer.get_instance('any')
    hook = FiberVisualizationHook(draw=True, test_out_dir='shown')
    hook._visualizer = DetLocalVisualizer()
    runner = SimpleNamespace(log_dir=str(tmp_path / 'log'))
    for _ in range(2):  # batches
        samples = [DetDataSample(metainfo=dict(img_path=str(image))) for _ in range(2)]
        for sample in samples:
            boxes = dict(bboxes=torch.tensor([[4.0, 4, 20, 20]]), scores=torch.ones(1))
            sample.pred_instances = InstanceData(labels=torch.zeros(1).long(), **boxes)
        hook.after_test_iter(runner, 0, {}, samples)
    names = {path.name for path in (tmp_path / 'log/shown').iterdir()}
    assert names == {'a.jpg', 'a_2.jpg', 'a_3.jpg', 'a_4.jpg'}
    assert all(cv2.imread(str(tmp_path / 'log/shown' / name)).any() for name in names)


def test_augmentation_flips_and_packs(tmp_path):
    cfg = Config(
        dict(
            model=dict(type='M'),
            test_dataloader=dict(
                dataset=dict(
                    type='Wrapper',
                    dataset=dict(
                        pipeline=[
                            dict(type='LoadImageFromFile'),
                            dict(type='PackDetInputs', meta_keys=('text',)),
                        ]
                    ),
                )
            ),
        )
    )
    load_tool('test').use_test_time_augmentation(cfg)
    assert cfg.model.type == 'FiberDetTTAModel'
    assert cfg.model.module.type == 'M'
    load_step, augment = cfg.test_dataloader.dataset.dataset.pipeline
    assert load_step.type == 'LoadImageFromFile'
    flips, (pack,) = augment.transforms
    assert sorted(flip.prob for flip in flips) == [0, 1]
    assert pack.meta_keys == ('text', 'flip', 'flip_direction')


# -- mistakes --------------------------------------------------------------------------------------


def exit_text(function, *args) -> str:
    with pytest.raises(SystemExit) as info:
        function(*args)
    return str(info.value)


def test_missing_config(tmp_path):
    assert 'no config file nowhere.py' in exit_text(train, 'nowhere.py')
    assert 'no config file nowhere.py' in exit_text(evaluate, 'nowhere.py', 'c.pth')


def test_mistyped_top_level_key(tmp_path):
    config = write_config(tmp_path, param_schedular=[])
    cfg = Config.fromfile(config)
    cfg.pop('param_scheduler')
    cfg.dump(config)
    assert "'param_schedular'; did you mean 'param_scheduler'" in exit_text(train, config)


@pytest.mark.parametrize(
    ('option', 'text'),
    [
        ('model.dropuot=0.1', "ToyModel got an unknown key 'dropuot'; did you mean 'dropout'"),
        ('train_cfg.max_iter=3', "FiberIterTrainLoop got an unknown key 'max_iter'"),
        ('train_dataloader.batch_sise=3', "DataLoader got an unknown key 'batch_sise'"),
        ('train_dataloader.sampler.shufle=1', "'shufle'; did you mean 'shuffle'"),
        ('optim_wrapper.optimizer.weight_decai=1', "AdamW got an unknown key 'weight_decai'"),
    ],
)
def test_mistyped_nested_key(tmp_path, option, text):
    config = write_config(tmp_path)
    assert text in exit_text(train, config, '--work-dir', tmp_path, '--cfg-options', option)


def test_processes_without_a_launcher(tmp_path, monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '8')
    assert 'one of 8 processes' in exit_text(train, write_config(tmp_path))


def test_options_that_do_not_apply(tmp_path):
    config = write_config(tmp_path)
    assert 'base_batch_size' in exit_text(train, config, '--auto-scale-lr')
    assert 'DetVisualizationHook' in exit_text(evaluate, config, 'c.pth', '--show-dir', 'x')


def test_out_must_be_a_pickle(tmp_path, capsys):
    with pytest.raises(SystemExit):
        evaluate(write_config(tmp_path), 'c.pth', '--out', 'p.json')
    assert 'ends with .pkl, got p.json' in capsys.readouterr().err


def test_bad_checkpoints(tmp_path):
    config = write_config(tmp_path)
    sign = tmp_path / 'code_ran'

    class Evil:
        def __reduce__(self):
            return Path.touch, (sign,)

    model = toy.ToyModel()
    good = model.state_dict()
    weight, bias = good['linear.weight'], good['linear.bias']
    files = dict(
        evil=dict(state_dict=good, extra=Evil()),
        renamed=dict(state_dict={'linear.wight': weight, 'linear.bias': bias}),
        partial=dict(state_dict={'linear.bias': bias}),
    )
    for name, content in files.items():
        torch.save(content, tmp_path / f'{name}.pth')
    (tmp_path / 'cut.pth').write_bytes((tmp_path / 'partial.pth').read_bytes()[:700])
    work = ('--work-dir', tmp_path / 'work')
    for name, text in (
        ('evil', 'could run code'),
        ('renamed', '1 unknown: linear.wight; 1 missing: linear.weight'),
        ('partial', '1 missing: linear.weight'),
        ('cut', 'truncated'),
        ('absent', 'there is no checkpoint'),
    ):
        message = exit_text(evaluate, config, tmp_path / f'{name}.pth', *work)
        assert text in message
        assert f'{name}.pth' in message
    resumed = exit_text(train, config, *work, '--resume', tmp_path / 'evil.pth')
    assert 'could run code' in resumed
    assert not sign.exists()


def test_help_says_what_the_tools_do(capsys):
    for name in ('train', 'test'):
        with pytest.raises(SystemExit) as info:
            load_tool(name).parse_args(['--help'])
        assert info.value.code == 0
        assert '--cfg-options' in capsys.readouterr().out
