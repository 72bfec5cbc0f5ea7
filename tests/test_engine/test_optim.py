"""Parameter groups, parameter by parameter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch import nn

from fiber_mm.config_lookup import config_folder
from fiber_mm.convert.arch import BASE
from fiber_mm.convert.layout import layout
from fiber_mm.engine import FiberOptimWrapperConstructor
from fiber_mm.engine.optim import COARSE_RULES, FINE_RULES, GroupRule, parameter_factors
from fiber_mm.registry import MODELS, OPTIM_WRAPPER_CONSTRUCTORS, PARAM_SCHEDULERS

PARITY = Path(__file__).parents[1] / 'parity' / 'data'


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(2, 6)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(4, 2))
        self.norm = nn.LayerNorm(2)


class Detector(nn.Module):
    """The names that the rules of the fine stage tell apart."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.encoder = nn.Module()
        self.backbone.encoder.image = Attention()
        self.backbone.encoder.text = nn.Linear(2, 2)
        self.bbox_head = nn.Module()
        self.bbox_head.bias_lang = nn.Parameter(torch.zeros(2))
        self.bbox_head.bias0 = nn.Parameter(torch.zeros(1))
        self.bbox_head.log_scale = nn.Parameter(torch.zeros(1))


def build(model: nn.Module, lr=1e-4, weight_decay=0.05, **paramwise):
    constructor = FiberOptimWrapperConstructor(
        dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=lr, weight_decay=weight_decay)),
        paramwise,
    )
    return constructor(model)


def base_config(name: str) -> Config:
    return Config.fromfile(str(config_folder() / '_base_' / f'{name}.py'))


def settings(model: nn.Module, wrapper) -> dict[str, tuple[float, float]]:
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        names[id(p)]: (group['lr'], group['weight_decay'])
        for group in wrapper.optimizer.param_groups
        for p in group['params']
    }


def test_fine_groups():
    model = Detector()
    wrapper = build(model, preset='fine')
    image, text, head = 'backbone.encoder.image', 'backbone.encoder.text', 'bbox_head'
    expected = {
        f'{image}.relative_position_bias_table': (2e-4, 0.0),
        f'{image}.qkv.weight': (1e-4, 0.05),
        f'{image}.qkv.bias': (2e-4, 0.0),
        f'{image}.norm.weight': (1e-4, 0.05),
        f'{image}.norm.bias': (2e-4, 0.0),
        f'{text}.weight': (1e-5, 0.05),
        f'{text}.bias': (2e-5, 0.0),
        f'{head}.bias_lang': (2e-4, 0.0),
        f'{head}.bias0': (2e-4, 0.0),
        f'{head}.log_scale': (1e-4, 0.05),
    }
    got = settings(model, wrapper)
    assert got.keys() == expected.keys()
    for name, wanted in expected.items():
        assert got[name] == pytest.approx(wanted), name
    assert len(wrapper.optimizer.param_groups) == 4, 'one group per pair of settings'


def test_rules_in_a_config_equal_the_preset():
    model = Detector()
    rules = build(model, rules=list(FINE_RULES))
    assert settings(model, rules) == settings(model, build(model, preset='fine'))


def test_frozen_parameters_stay_out():
    model = Detector()
    model.backbone.encoder.image.qkv.requires_grad_(False)
    assert not any('qkv' in name for name in settings(model, build(model, preset='fine')))


def test_shared_parameters_come_once():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    assert sum(len(group['params']) for group in build(model).optimizer.param_groups) == 3


def test_without_excludes():
    rule = GroupRule(contains=('norm', 'bias'), without='text')
    assert rule.matches('image.norm.weight')
    assert not rule.matches('text.norm.weight')


@pytest.mark.parametrize(
    'task', ['pretrain', 'vqa', 'nlvr2', 'caption', 'retrieval_itc', 'retrieval_itm']
)
def test_coarse_groups_are_the_originals(task):
    """Every parameter of every task, by the original's own names."""
    groups = json.loads((PARITY / 'optim_coarse.json').read_text())[task]['groups']
    expected = {
        name: (float(key.split('x_decay')[0]), float(key.split('x_decay')[1]) / 0.01)
        for key, names in groups.items()
        for name in names
    }
    rules = [GroupRule(**rule) for rule in COARSE_RULES]
    got = parameter_factors(expected, rules)
    wrong = {name: (got[name], wanted) for name, wanted in expected.items() if got[name] != wanted}
    assert not wrong


@pytest.mark.parametrize(
    'task', ['pretrain', 'vqa', 'nlvr2', 'caption', 'retrieval_itc', 'retrieval_itm']
)
def test_coarse_groups_hold_for_our_names(task):
    """The groups are chosen by our parameters' names: the converter says which is which."""
    groups = json.loads((PARITY / 'optim_coarse.json').read_text())[task]['groups']
    entries = layout(f'coarse_{task}', BASE)
    expected = {}
    for key, names in groups.items():
        lr_mult, decay = key.split('x_decay')
        for name in names:
            ours = entries[name].ours
            if ours:  # the others take no part in the task
                expected[ours] = float(lr_mult), float(decay) / 0.01
    assert expected.keys() == {entry.ours for entry in entries.values() if entry.ours}
    got = parameter_factors(expected, [GroupRule(**rule) for rule in COARSE_RULES])
    wrong = {name: (got[name], wanted) for name, wanted in expected.items() if got[name] != wanted}
    assert not wrong


def test_coarse_groups_of_the_built_model():
    """Through the constructor, on the shipped model: what is frozen stays out."""
    groups = json.loads((PARITY / 'optim_coarse.json').read_text())['pretrain']['groups']
    entries = layout('coarse_pretrain', BASE)
    cfg = base_config('models/fiber_swin-b_pretrain').model
    cfg.data_preprocessor = None
    with torch.device('meta'):
        model = MODELS.build(cfg)
    got = settings(model, build(model, lr=1e-5, weight_decay=0.01, preset='coarse'))
    assert not any('rank_output' in name for name in got)
    for key, names in groups.items():
        lr_mult, decay = map(float, key.split('x_decay'))
        for name in names:
            ours = entries[name].ours
            if ours and 'rank_output' not in name:
                assert got.pop(ours) == pytest.approx((1e-5 * lr_mult, decay)), ours
    assert not got, 'parameters that the original does not have'


def test_linear_decay_after_a_warm_up():
    """The schedule of the coarse configs, a hundred times shorter, step by step."""
    numbers = json.loads((PARITY / 'optim_coarse.json').read_text())['pretrain']
    assert (numbers['decay_power'], numbers['end_lr']) == (1, 0)
    cfg = base_config('schedules/pretrain_100k')
    assert cfg.iterations == numbers['max_steps']
    optimizer = cfg.optim_wrapper.optimizer
    assert optimizer.lr == numbers['learning_rate']
    assert list(optimizer.betas) == numbers['betas']
    assert optimizer.eps == numbers['eps']
    steps = numbers['max_steps'] // 100
    warmup = int(numbers['warmup_steps'] * steps)
    lr = numbers['learning_rate']
    wrapper = build(nn.Linear(2, 2), lr=lr)
    schedulers = []
    for scheduler in cfg.param_scheduler:
        scheduler.begin, scheduler.end = scheduler.begin // 100, (scheduler.end - 1) // 100 + 1
        schedulers.append(PARAM_SCHEDULERS.build(dict(scheduler, optimizer=wrapper)))
    for step in range(steps):
        wanted = lr * min(step / warmup, (steps - step) / (steps - warmup))
        assert wrapper.param_groups[0]['lr'] == pytest.approx(wanted, rel=1e-5, abs=2e-9 * lr)
        for scheduler in schedulers:
            scheduler.step()


def test_rule_without_parameters_is_an_error():
    with pytest.raises(ValueError, match=r'encoder\.txt.*no parameter'):
        build(Detector(), rules=[dict(contains='encoder.txt', lr_mult=0.1)])
    with pytest.raises(ValueError, match='near: .*log_scale'):
        build(Detector(), rules=[dict(contains='log_scales', lr_mult=0.1)])


@pytest.mark.parametrize(
    ('paramwise', 'message'),
    [
        (dict(custom_keys=dict()), 'custom_keys'),
        (dict(preset='medium'), "'coarse', 'fine'"),
        (dict(rules=[dict(contains='')]), 'not empty'),
    ],
)
def test_bad_settings(paramwise, message):
    with pytest.raises(ValueError, match=message):
        build(Detector(), **paramwise)


def test_mistyped_rule():
    with pytest.raises(TypeError, match='lr_mul'):
        build(Detector(), rules=[dict(contains='bias', lr_mul=2)])


def test_decay_rules_need_a_decay():
    constructor = FiberOptimWrapperConstructor(
        dict(optimizer=dict(type='AdamW', lr=1.0)), dict(preset='fine')
    )
    with pytest.raises(ValueError, match='weight_decay'):
        constructor(Detector())


def test_is_registered_and_steps_on_cpu_in_bf16():
    model = nn.Linear(2, 1)
    constructor = OPTIM_WRAPPER_CONSTRUCTORS.build(
        dict(
            type='FiberOptimWrapperConstructor',
            optim_wrapper_cfg=dict(
                type='FiberBf16OptimWrapper', optimizer=dict(type='AdamW', lr=0.1)
            ),
        )
    )
    wrapper = constructor(model)
    before = model.weight.detach().clone()
    with wrapper.optim_context(model):
        out = model(torch.ones(1, 2))
        assert out.dtype == torch.bfloat16
    wrapper.update_params(out.float().sum())
    assert not torch.equal(model.weight, before)
    assert model.weight.dtype == torch.float32
