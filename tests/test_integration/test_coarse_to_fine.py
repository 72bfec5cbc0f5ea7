"""A detector is trained from a coarse checkpoint by ``load_from`` alone."""

import pytest
import torch

from fiber_mm.engine import CheckpointError, FiberRunner
from fiber_mm.registry import MODELS


@pytest.fixture
def coarse(nano_cfg, tmp_path):
    """Coarse weights for the encoder of the small config, with other windows."""
    backbone = nano_cfg.model.backbone
    swin = dict(backbone.swin, window_size=3, output_norms=(), final_norm=True)
    model = MODELS.build(
        dict(type='FiberPretrain', swin=swin, roberta=backbone.roberta, fusion=backbone.fusion)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-0.1, 0.1)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'coarse.pth')
    return tmp_path / 'coarse.pth', model.state_dict()


def config(nano_cfg, coarse, work_dir):
    nano_cfg.work_dir = str(work_dir)
    nano_cfg.load_from = str(coarse)
    nano_cfg.train_cfg.max_iters = 1
    nano_cfg.optim_wrapper.optimizer.lr = 0.0  # so that what was loaded can be read afterwards
    nano_cfg.optim_wrapper.optimizer.weight_decay = 0.0
    for key in ('val_dataloader', 'val_cfg', 'val_evaluator'):
        nano_cfg.pop(key, None)
    return nano_cfg


@pytest.mark.parametrize('leave_out', [(), ('alpha_',), 'alpha_'])
def test_load_from(nano_cfg, coarse, tmp_path, leave_out):
    path, weights = coarse
    cfg = config(nano_cfg, path, tmp_path / 'run')
    cfg.load_leave_out = leave_out
    cfg.experiment_name = f'coarse_to_fine_{leave_out}'
    trained = FiberRunner.from_cfg(cfg).train().state_dict()
    used = 0
    for key, value in weights.items():
        name = f'backbone.{key}'
        if name in trained and not key.endswith('bias_table'):
            assert torch.equal(trained[name], value) == (not leave_out or 'alpha_' not in key), key
            used += 1
    assert used > 60
    log = next((tmp_path / 'run').glob('*/*.log')).read_text()
    for text in (
        'used',
        'resized',
        'window 3 -> 4',
        'dropped',
        'not in a model of the other stage',
    ):
        assert text in log
    assert ('left out, starts fresh' in log) == bool(leave_out)


def test_what_starts_fresh_does_so_at_the_start_alone(nano_cfg, checkpoint, tmp_path):
    """Neither in a test nor when a run is resumed, also with load_strict=False."""
    cfg = config(nano_cfg, checkpoint, tmp_path / 'run')
    cfg.update(load_leave_out=('alpha_',), load_strict=False, experiment_name='fresh_at_start')
    cfg.custom_hooks = []
    started = FiberRunner.from_cfg(cfg).train().state_dict()
    kept = torch.load(checkpoint, weights_only=True)['state_dict']
    gates = [key for key in kept if 'alpha_' in key]
    assert gates
    assert not any(torch.equal(started[key], kept[key]) for key in gates)
    for resume in (False, True):
        runner = FiberRunner.from_cfg(cfg.copy())
        runner._trains, runner._resume = resume, resume
        runner._check_resumable = lambda *_: None
        runner.load_checkpoint(checkpoint)
        assert all(torch.equal(runner.model.state_dict()[key], kept[key]) for key in gates)


def test_evaluation_takes_no_other_stage(nano_cfg, coarse, tmp_path):
    cfg = config(nano_cfg, coarse[0], tmp_path / 'run')
    cfg.experiment_name = 'coarse_as_fine'
    with pytest.raises(CheckpointError, match='does not fit FiberGrounder'):
        FiberRunner.from_cfg(cfg).test()
