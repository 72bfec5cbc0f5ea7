import copy

import pytest
import torch
from mmengine.registry import init_default_scope

from fiber_mm.ablation.configs import (
    coarse_base,
    coarse_config,
    fine_base,
    fine_config,
    retrieval_config,
)
from fiber_mm.ablation.settings import AblationSettings
from fiber_mm.ablation.variants import VARIANTS
from fiber_mm.demo.coarse import count_start, start_from
from fiber_mm.demo.coarse_evaluation import protocols
from fiber_mm.engine.optim import FiberOptimWrapperConstructor
from fiber_mm.engine.stages import adapt_to_stage
from fiber_mm.registry import MODELS, OPTIM_WRAPPER_CONSTRUCTORS

FUSED = dict(blocks_4=4, blocks_6=6)


def build(cfg):
    init_default_scope('mmengine')
    return MODELS.build(copy.deepcopy(cfg.model))


def gates(model):
    return {name: p for name, p in model.named_parameters() if 'alpha_' in name}


def gate_rates(model, cfg):
    """Learning rates of the gates."""
    wrapper_cfg = copy.deepcopy(cfg.optim_wrapper)
    constructor = OPTIM_WRAPPER_CONSTRUCTORS.get(wrapper_cfg.pop('constructor'))
    assert constructor is FiberOptimWrapperConstructor
    paramwise = wrapper_cfg.pop('paramwise_cfg')
    groups = constructor(wrapper_cfg, paramwise)(model).optimizer.param_groups
    own = {id(p) for p in gates(model).values()}
    return {group['lr'] for group in groups for p in group['params'] if id(p) in own}


@pytest.fixture
def bases(toy):
    settings = toy()
    return settings, coarse_base(settings), fine_base(settings)


@pytest.mark.parametrize('name', VARIANTS)
def test_every_variant_builds_models_that_fit_together(name, bases, tmp_path):
    _, coarse, fine = bases
    variant = VARIANTS[name]
    fine_cfg = fine_config(fine, name, 1, tmp_path / 'fine')
    detector = build(fine_cfg)
    assert fine_cfg.randomness.seed == 1
    number = FUSED.get(name, 2)
    assert len(gates(detector)) == 2 * number
    assert len(detector.backbone.encoder.plan.pairs) == number
    fixed = variant.fine_gates_fixed
    assert (gate_rates(detector, fine_cfg) == {0.0}) == fixed
    start = 1.0 if 'open' in name or name == 'ungated' else 0.0
    assert all(gate.item() == start for gate in gates(detector).values())
    if not variant.from_coarse:
        return

    cfg = coarse_config(coarse, name, 1, tmp_path / 'coarse')
    model = build(cfg)
    assert model.losses == variant.losses
    assert len(gates(model)) == 2 * number
    assert (gate_rates(model, cfg) == {0.0}) == variant.coarse_gates_fixed
    assert model.hard_negatives == (name not in ('random_negatives', 'no_itc'))

    # Every weight of it is loaded for retrieval, and those of the encoder by the fine stage.
    state = model.state_dict()
    if protocols(variant.losses):
        test = build(retrieval_config(cfg, tmp_path / 'coarse.pth'))
        test.load_state_dict(state)
    with torch.no_grad():
        for gate in gates(model).values():
            gate.fill_(0.5)
    torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / 'coarse.pth')
    start_from(fine_cfg, tmp_path / 'coarse.pth', not variant.kept_gates)
    used = count_start(fine_cfg)
    found = adapt_to_stage(detector, state, fine_cfg.get('load_leave_out', ()))
    assert (used['used'], used['used'] + used['dropped']) == (len(found), len(state))
    wrong = detector.load_state_dict(found, strict=False)
    assert not wrong.unexpected_keys
    fresh = {key.split('.')[0] for key in wrong.missing_keys if not key.startswith('backbone')}
    assert fresh == {'neck', 'bbox_head'}
    # In the encoder only what the coarse stage has not: norms of the stages' outputs, gates.
    rest = [key for key in wrong.missing_keys if key.startswith('backbone.encoder')]
    assert all('image.norm' in key or 'alpha_' in key for key in rest)
    expected = 0.5 if variant.kept_gates else start
    assert all(gate.item() == expected for gate in gates(detector).values())


def test_the_protocols_follow_from_the_heads():
    assert protocols(('itc', 'itm', 'mlm')) == ('itc', 'itm_rerank')
    assert protocols(('itc', 'mlm')) == ('itc',)
    assert protocols(('itm', 'mlm')) == protocols(()) == ()


def test_all_data_is_read_below_the_given_folder(bases):
    settings, *configs = bases
    coarse = coarse_config(configs[0], 'coarse', 0, settings.work_dir)
    retrieval = retrieval_config(coarse, settings.work_dir)
    for cfg in (*configs, retrieval):
        assert 'data/shapes/' not in str(cfg.to_dict())
        assert cfg.model.data_preprocessor.tokenizer == f'{settings.data}/tokenizer'


def test_settings_that_cannot_be_are_refused():
    for options, message in (
        (dict(seeds=()), 'seeds'),
        (dict(seeds=(-1,)), 'seeds'),
        (dict(coarse_steps=0), 'coarse_steps must be at least 1'),
        (dict(processes=0), 'processes must be at least 1'),
        (dict(variants=('x',)), 'no variants'),
    ):
        with pytest.raises(ValueError, match=message):
            AblationSettings(**options)
