"""Coarse pre-training of the nano model, killed and resumed, with negatives of both kinds."""

import json

import pytest
from mmengine.config import Config
from shapes_fixture import shapes_root  # noqa: F401
from test_engine import toy_training as toy

from fiber_mm import get_config
from fiber_mm.registry import RUNNERS

from .conftest import narrow_coarse


def train(config_file, work_dir, resume=False):
    cfg = Config.fromfile(config_file)
    cfg.work_dir, cfg.resume = str(work_dir), resume
    RUNNERS.build(cfg).train()


@pytest.fixture
def config(shapes_root):  # noqa: F811
    """The nano config, narrower, with dropout."""
    cfg = narrow_coarse(get_config('pretrain/fiber_nano_1xb32_1k_shapes'), shapes_root)
    cfg.model.swin.drop_path_rate = 0.2
    cfg.model.roberta.hidden_dropout = 0.1
    cfg.train_cfg.update(max_iters=6, val_interval=3)
    cfg.default_hooks.checkpoint.update(interval=2, max_keep_ckpts=1)
    cfg.param_scheduler = [dict(type='LinearLR', start_factor=0.1, end=4, by_epoch=False)]
    return cfg


def scores(work_dir):
    """Recalls on held-out images, by iteration."""
    lines = [
        json.loads(line)
        for file in sorted(work_dir.glob('*/vis_data/scalars.json'))
        for line in file.read_text().splitlines()
    ]
    return {
        line['step']: {key: value for key, value in line.items() if key.startswith('itc/')}
        for line in lines
        if 'itc/TR@1' in line
    }


@pytest.mark.slow
@pytest.mark.usefixtures('one_thread')
@pytest.mark.parametrize('negatives', ['batch', 'queue'])
def test_killed_pretraining_ends_with_the_same_weights(config, tmp_path, negatives):
    config.model.negatives = negatives
    if negatives == 'queue':
        config.model.queue = dict(size=10)
    file = tmp_path / 'nano.py'
    config.dump(file)
    train(file, tmp_path / 'whole')

    cut = tmp_path / 'cut'
    process = toy.in_a_process(train, str(file), str(cut))
    toy.kill_when(
        process, lambda: (cut / 'iter_4.pth').exists() or (cut / '.iter_4.pth.tmp').exists()
    )
    assert not (cut / 'iter_6.pth').exists(), 'the run was meant to be killed before its end'
    train(file, cut, resume=True)

    got, wanted = toy.last_state(cut), toy.last_state(tmp_path / 'whole')
    assert got['meta']['iter'] == wanted['meta']['iter'] == 6
    assert scores(cut)[6] == scores(tmp_path / 'whole')[6]
    assert scores(tmp_path / 'whole').keys() == {3, 6}
    for key, value in wanted['state_dict'].items():
        assert got['state_dict'][key].equal(value), key
    if negatives == 'queue':
        assert wanted['negative_queue']['total'] == 24
        for key, value in wanted['negative_queue'].items():
            same = got['negative_queue'][key]
            assert same.equal(value) if hasattr(value, 'equal') else same == value, key
