"""A checkpoint of one stage starts a model of the other."""

import re

import pytest
import torch
from test_models.test_detectors.toy import CONFIG, merge, shake
from test_models.test_multimodal.toy import ENCODER, PRETRAIN

from fiber_mm.convert import initial_weights
from fiber_mm.core.window import resize_bias_table
from fiber_mm.engine import CheckpointError
from fiber_mm.engine.checkpoint import what_fits
from fiber_mm.engine.stages import adapt_to_stage
from fiber_mm.registry import MODELS

FINE = dict(
    swin={**ENCODER['swin'], 'window_size': 4, 'output_norms': (1, 2, 3), 'final_norm': False},
    roberta=ENCODER['roberta'],
    fusion=dict(num_blocks=3, norm_i2t_query=False, gate_init=0.5),
)


def coarse_model(window=2):
    swin = dict(ENCODER['swin'], window_size=window)
    return shaken(MODELS.build(dict(PRETRAIN, swin=swin)))


def fine_model():
    config = merge(CONFIG, dict(data_preprocessor=None))
    config['backbone'] = dict(type='FiberBackbone', **FINE)
    return shaken(MODELS.build(config))


def shaken(model):
    shake(model)
    return model


def test_coarse_to_fine_is_what_the_converter_makes():
    coarse, fine = coarse_model(), fine_model()
    found = adapt_to_stage(fine, coarse.state_dict())
    wanted = initial_weights([coarse.state_dict()], 'fine', 4).state_dict
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], value) for key, value in wanted.items())
    tables = [key for key in found if key.endswith('bias_table')]
    assert {len(found[key]) for key in tables} == {49}
    lost = fine.load_state_dict(found, strict=False)
    assert not lost.unexpected_keys
    assert {key.split('.')[0] for key in lost.missing_keys} == {'backbone', 'neck', 'bbox_head'}
    norms = [key for key in lost.missing_keys if key.startswith('backbone')]
    assert all('norm' in key for key in norms), 'only what coarse models do not have'


def test_fine_to_coarse():
    coarse, fine = coarse_model(), fine_model()
    before = fine.state_dict()
    found = adapt_to_stage(coarse, before)
    assert all(key.startswith('encoder.') for key in found)
    assert len(found) > 100
    for key, value in found.items():
        source = before[f'backbone.{key}']
        if key.endswith('bias_table'):
            source = resize_bias_table(source, 2)
        assert torch.equal(value, source)
    assert not coarse.load_state_dict(found, strict=False).unexpected_keys


def test_what_is_left_out_starts_fresh(caplog):
    coarse, fine = coarse_model(), fine_model()
    found = adapt_to_stage(fine, coarse.state_dict(), leave_out=['alpha_'])
    everything = adapt_to_stage(fine, coarse.state_dict())
    assert everything.keys() - found.keys() == {key for key in everything if 'alpha_' in key}
    assert len(everything) > len(found)


def test_the_same_stage():
    coarse = coarse_model()
    state = coarse.state_dict()
    same = adapt_to_stage(coarse, state)
    assert same.keys() == state.keys()
    assert all(same[key] is state[key] for key in state)
    other = adapt_to_stage(coarse_model(window=3), state)
    changed = [key for key in state if other[key] is not state[key]]
    assert changed
    assert all(key.endswith('bias_table') and len(other[key]) == 25 for key in changed)


@pytest.mark.parametrize('prefix', [None, 'backbone.'])
def test_init_cfg(tmp_path, prefix):
    """mmengine's own ``Pretrained``, from coarse to fine and the other way round."""
    coarse, fine = coarse_model(), fine_model()
    source, encoder = (fine, fine.backbone.encoder) if prefix else (coarse, coarse.encoder)
    torch.save(dict(state_dict=source.state_dict()), tmp_path / 'start.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'start.pth'), prefix=prefix)
    kind = dict(PRETRAIN) if prefix else dict(type='FiberBackbone', **FINE)
    model = MODELS.build(dict(kind, init_cfg=init_cfg))
    model.init_weights()
    own, there = model.encoder.state_dict(), encoder.state_dict()
    shared = own.keys() & there.keys()
    assert len(shared) > 100
    for key in shared:
        value = there[key]
        if key.endswith('bias_table'):
            value = resize_bias_table(value, 2 if prefix else 4)
        assert torch.equal(own[key], value), key


def test_init_cfg_that_would_pass_over_the_whole_encoder(tmp_path):
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'start.pth'))
    models = [
        MODELS.build(dict(PRETRAIN, init_cfg=init_cfg)),
        MODELS.build(dict(type='FiberBackbone', **FINE, init_cfg=init_cfg)),
    ]
    fine = fine_model().state_dict()
    for model in models:
        torch.save(dict(state_dict=fine), tmp_path / 'start.pth')
        with pytest.raises(ValueError, match=r"by load_from.* by init_cfg with prefix='back"):
            model.init_weights()
        torch.save(dict(model=fine), tmp_path / 'start.pth')  # not converted
        model._is_init = False
        with pytest.raises(ValueError, match=r'no weights of an encoder.* but model .*is it conv'):
            model.init_weights()


def test_init_cfg_with_other_shapes(tmp_path):
    state = coarse_model().state_dict()
    key = next(key for key in state if key.endswith('mlp.fc1.weight') or 'fc1.weight' in key)
    torch.save(dict(state_dict={**state, key: state[key][:-1]}), tmp_path / 'start.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'start.pth'))
    model = MODELS.build(dict(type='FiberBackbone', **FINE, init_cfg=init_cfg))
    with pytest.raises(ValueError, match=f'1 weights .*{re.escape(key)}: .*, wanted'):
        model.init_weights()


def test_a_checkpoint_of_which_nothing_fits_is_refused():
    with pytest.raises(CheckpointError, match='none of the 1 weights of a.pth fits'):
        what_fits(coarse_model(), dict(state_dict=dict(other=torch.zeros(1))), 'a.pth')
