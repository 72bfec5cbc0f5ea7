"""The nano detector, killed and resumed."""

import pytest
import torch
from mmengine.config import Config
from test_engine import toy_training as toy

from fiber_mm.registry import RUNNERS


def train(config_file, work_dir, resume=False):
    cfg = Config.fromfile(config_file)
    cfg.work_dir, cfg.resume = str(work_dir), resume
    RUNNERS.build(cfg).train()


@pytest.mark.slow
@pytest.mark.usefixtures('one_thread')
@pytest.mark.parametrize('workers', [0, 2])
def test_killed_nano_ends_with_the_same_weights(nano_cfg, tmp_path, workers):
    cfg = nano_cfg
    cfg.train_cfg.update(max_iters=6, val_interval=3)
    cfg.default_hooks.checkpoint.update(interval=2, max_keep_ckpts=1)
    cfg.train_dataloader.update(num_workers=workers, persistent_workers=workers > 0)
    cfg.param_scheduler = [dict(type='LinearLR', start_factor=0.1, end=4, by_epoch=False)]
    # Random numbers in the model too.
    cfg.model.backbone.roberta.update(hidden_dropout=0.1, attention_dropout=0.1)
    cfg.model.backbone.swin.drop_path_rate = 0.2
    file = tmp_path / 'nano.py'
    cfg.dump(file)
    train(file, tmp_path / 'whole')

    cut = tmp_path / 'cut'
    process = toy.in_a_process(train, str(file), str(cut))
    toy.kill_when(
        process, lambda: (cut / 'iter_4.pth').exists() or (cut / '.iter_4.pth.tmp').exists()
    )
    assert not (cut / 'iter_6.pth').exists(), 'the run was meant to be killed before its end'
    assert toy.last_state(cut)['meta']['iter'] in (2, 4)
    train(file, cut, resume=True)

    got, wanted = toy.last_state(cut), toy.last_state(tmp_path / 'whole')
    assert got['meta']['iter'] == wanted['meta']['iter'] == 6
    toy.assert_same_training(got, wanted)
    averaged = got['ema_state_dict']
    pairs = [(averaged[f'module.{key}'], value) for key, value in got['state_dict'].items()]
    assert any(not torch.equal(*pair) for pair in pairs), 'something was trained'
