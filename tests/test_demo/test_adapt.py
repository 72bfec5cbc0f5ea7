"""Configs with other steps, and with data elsewhere."""

import json

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import LinearLR

from fiber_mm.config_lookup import get_config
from fiber_mm.demo.adapt import move_paths, set_steps, without_training, without_validation
from fiber_mm.demo.settings import COARSE_CONFIG, CONFIG


def text(cfg):
    return json.dumps(cfg.to_dict(), default=str)


@pytest.mark.parametrize('name', [COARSE_CONFIG, CONFIG])
def test_with_its_own_number_of_steps_a_config_stays_as_it_is(name):
    cfg = get_config(name)
    before = text(cfg)
    set_steps(cfg, cfg.train_cfg.max_iters)
    assert text(cfg) == before


def test_schedules_follow_the_steps():
    cfg = get_config(CONFIG)
    warm_up, cosine = cfg.param_scheduler
    assert cfg.train_cfg.max_iters == 900
    set_steps(cfg, 450)
    assert cfg.train_cfg.max_iters == 450
    assert (warm_up.begin, warm_up.end) == (0, 25)
    assert (cosine.begin, cosine.end, cosine.T_max) == (338, 450, 112)
    set_steps(cfg, 2)
    # There are losses to draw, and there is a checkpoint.
    assert cfg.default_hooks.logger.interval == cfg.default_hooks.checkpoint.interval == 2
    set_steps(cfg, 1)
    assert (warm_up.begin, warm_up.end) == (0, 2)
    assert cosine.end >= cosine.begin + 2
    assert cosine.T_max >= 1


def test_the_shortest_warm_up_reaches_the_rate():
    cfg = get_config(CONFIG)
    set_steps(cfg, 4)
    warm_up = dict(cfg.param_scheduler[0])
    assert warm_up.pop('type') == 'LinearLR'
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    scheduler = LinearLR(optimizer, **warm_up)
    assert optimizer.param_groups[0]['lr'] == pytest.approx(0.5 * warm_up['start_factor'])
    for _ in range(2):
        optimizer.step()
        scheduler.step()
    assert optimizer.param_groups[0]['lr'] == pytest.approx(0.5)


def test_a_schedule_without_an_end_gets_none():
    cfg = get_config(CONFIG)
    cfg.param_scheduler = [dict(type='CosineAnnealingLR', T_max=900, by_epoch=False)]
    set_steps(cfg, 500)
    assert cfg.param_scheduler == [dict(type='CosineAnnealingLR', T_max=500, by_epoch=False)]


def test_paths_are_moved_with_all_below_them():
    cfg = Config(
        dict(
            root='data/shapes/',
            tokenizer='data/shapes/tokenizer',
            loaders=[dict(file='data/shapes/a.json'), ('data/shapes', 'data/shapes_2', 3)],
        )
    )
    move_paths(cfg, {'data/shapes/tokenizer': '/words', 'data/shapes/': 'else/where'})
    assert cfg.to_dict() == dict(
        root='else/where/',
        tokenizer='/words',
        loaders=[dict(file='else/where/a.json'), ('else/where', 'data/shapes_2', 3)],
    )


def test_what_is_left_out():
    cfg = get_config(CONFIG)
    without_validation(cfg)
    assert not [key for key in cfg if key.startswith('val_') and key != 'val_pipeline']
    assert {'train_dataloader', 'test_dataloader', 'custom_hooks'} <= set(cfg)
    without_training(cfg)
    assert {'train_dataloader', 'train_cfg', 'optim_wrapper', 'custom_hooks'}.isdisjoint(cfg)
    assert {'test_dataloader', 'test_cfg', 'model'} <= set(cfg)
