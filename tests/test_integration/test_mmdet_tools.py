"""mmdet's own tools/train.py and tools/test.py, which know nothing of us but ``custom_imports``."""

import json
import sys
from pathlib import Path

import mmdet
import pytest
import torch
from tool_loader import load_tool

TOOLS = Path(mmdet.__file__).parent / '.mim' / 'tools'


def run_tool(monkeypatch, name: str, *args: str) -> None:
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.setattr(sys, 'argv', [f'{name}.py', *args])
    load_tool(name, TOOLS).main()


def last_metrics(folder: Path) -> dict:
    """The latest log line that holds a metric."""
    lines = [
        json.loads(line)
        for path in sorted(folder.rglob('*.json'))
        for line in path.read_text().splitlines()
        if line.startswith('{')
    ]
    return [line for line in lines if any('/' in key or 'AP' in key for key in line)][-1]


@pytest.mark.slow
@pytest.mark.parametrize('runner', ['FiberRunner', None])
def test_train_then_test(nano_cfg, tmp_path, monkeypatch, runner):
    cfg = nano_cfg
    if runner is None:
        cfg.pop('runner_type')
    cfg.train_cfg.update(max_iters=2, val_interval=2)
    cfg.default_hooks.checkpoint.interval = 1
    path = tmp_path / 'nano.py'
    cfg.dump(path)
    run_tool(monkeypatch, 'train', str(path), '--work-dir', str(tmp_path / 'train'))

    saved = tmp_path / 'train' / 'iter_2.pth'
    content = torch.load(saved, weights_only=False)
    # EMAHook writes the averaged weights as the model's, and the trained ones beside them.
    averaged, trained = content['state_dict'], content['ema_state_dict']
    name = 'bbox_head.bbox_pred.weight'
    assert not torch.equal(averaged[name], trained[f'module.{name}'])

    for flag in ((), ('--tta',)):
        work_dir = tmp_path / f'test{"".join(flag)}'
        run_tool(monkeypatch, 'test', str(path), str(saved), '--work-dir', str(work_dir), *flag)
        metrics = last_metrics(work_dir)
        assert any('mAP' in key or 'AP' in key for key in metrics), metrics
