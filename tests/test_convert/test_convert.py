import pytest
import torch

from fiber_mm.convert import ConversionError, detect_family, to_original, to_ours
from fiber_mm.convert.convert import resolve_family
from fiber_mm.convert.layout import layout

from . import helpers
from .helpers import TINY, full_size, parameters, tiny


@pytest.mark.parametrize('family', helpers.FAMILIES)
def test_every_key_of_a_released_checkpoint_is_accounted_for(family):
    state = full_size(family)
    result = to_ours(state)
    report = result.report
    assert report.family == family
    assert not report.fresh
    assert report.used.keys() | report.kept.keys() | report.dropped.keys() == state.keys()
    assert all(report.kept.values())
    assert all(report.dropped.values())
    for key, ours in report.used.items():
        assert result.state_dict[ours] is state[key]


@pytest.mark.parametrize('family', helpers.FAMILIES)
def test_round_trip_of_released_keys(family):
    state, specs = full_size(family), helpers.manifest(family)['tensors']
    there = to_ours(state)
    back = to_original(there.state_dict, there.unused)
    assert back.report.family == family
    assert back.state_dict.keys() <= state.keys()
    for key, spec in specs.items():
        if spec['role'] == 'param':
            assert back.state_dict[key] is state[key]
        elif 'queue' not in key:
            assert list(back.state_dict[key].shape) == spec['shape'], key
            assert back.state_dict[key].dtype == state[key].dtype, key


@pytest.mark.parametrize('family', helpers.FAMILIES)
def test_round_trip_of_tiny_values(family):
    state = tiny(family)
    there = to_ours(state, arch='infer')
    back = to_original(there.state_dict, there.unused, family)
    params = parameters(family, state)
    assert params.keys() <= back.state_dict.keys()
    for key, value in params.items():
        assert torch.equal(back.state_dict[key], value), key


def test_round_trip_from_ours_without_the_unused():
    there = to_ours(tiny('coarse_pretrain'), arch=TINY)
    back = to_original(there.state_dict)
    again = to_ours(back.state_dict, arch=TINY)
    assert again.state_dict.keys() == there.state_dict.keys()
    assert all(torch.equal(again.state_dict[k], v) for k, v in there.state_dict.items())
    norm = 'text_transformer.encoder.layer.3.crossattention_t2i.output.LayerNorm.'
    assert (back.state_dict[norm + 'weight'] == 1).all()
    assert (back.state_dict[norm + 'bias'] == 0).all()
    assert (back.state_dict['text_transformer.encoder.layer.0.alpha_t2i'] == 0).all()


def test_derived_buffers_are_computed_not_copied():
    state = tiny('fine')
    key = 'fusion_backbone.backbone.body.layers.0.blocks.0.attn.relative_position_index'
    there = to_ours(state, arch=TINY)
    assert 7 not in [v.flatten()[0].item() for v in there.state_dict.values()]
    back = to_original(there.state_dict, there.unused)
    assert back.state_dict[key].tolist() == [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]


def test_other_size_than_the_released_is_refused_by_default():
    with pytest.raises(ConversionError, match='shape    vit_model'):
        to_ours(tiny('coarse_pretrain'))


@pytest.mark.parametrize('family', ['coarse_pretrain', 'coarse_retrieval_itc', 'fine'])
def test_any_renamed_key_is_named(family):
    # A derived buffer may be missing, so only its unknown new name counts.
    for key in list(tiny(family))[::17]:
        state = tiny(family)
        state[f'{key}_x'] = state.pop(key)
        with pytest.raises(ConversionError) as error:
            to_ours(state, arch=TINY)
        text = str(error.value)
        assert f'unknown  {key}_x' in text
        if not layout(family, TINY)[key].derived:
            assert f'missing  {key}' in text
            assert f'(nearest wanted: {key})' in text


def test_all_faults_are_listed_at_once():
    state = tiny('fine')
    lost = [k for k in state if 'centerness' in k]
    for key in lost:
        del state[key]
    state['rpn.head.extra'] = torch.zeros(1)
    bad = 'fusion_backbone.language_backbone.body.model.embeddings.word_embeddings.weight'
    state[bad] = torch.zeros(31, 12)
    with pytest.raises(ConversionError) as error:
        to_ours(state, arch=TINY)
    text = str(error.value)
    assert '2 keys missing, 1 unknown, 1 of another shape' in text
    assert all(f'missing  {key}' in text for key in lost)
    assert f'{bad}: has (31, 12), wanted (30, 12)' in text


def test_ignored_keys_are_reported():
    state = tiny('fine')
    del state['rpn.head.centerness.bias']
    state['rpn.head.extra'] = torch.zeros(1)
    result = to_ours(state, arch=TINY, ignore=[r'centerness\.bias', 'extra'])
    assert result.report.fresh == {'bbox_head.centerness.bias': 'missing, as allowed'}
    assert result.report.dropped['rpn.head.extra'] == 'unknown, as allowed'


def test_ignored_keys_keep_their_shape():
    state = tiny('fine')
    state['rpn.head.centerness.bias'] = torch.zeros(9)
    with pytest.raises(ConversionError, match=r'centerness\.bias: has \(9,\), wanted \(1,\)'):
        to_ours(state, arch=TINY, ignore=['centerness'])


def test_copy_of_gold_is_dropped():
    state = tiny('coarse_caption')
    copies = {f'copy_module.{key}': value for key, value in state.items()}
    result = to_ours(state | copies, arch=TINY)
    assert result.report.family == 'coarse_caption'
    assert copies.keys() <= result.report.dropped.keys()
    with pytest.raises(ConversionError, match='copy_module.nonsense'):
        to_ours(state | {'copy_module.nonsense': torch.zeros(1)}, arch=TINY)


@pytest.mark.parametrize('family', helpers.FAMILIES)
def test_detection_survives_one_wrong_key(family):
    state = full_size(family)
    for key in ('temp', 'itm_score.fc.bias', 'rpn.head.log_scale'):
        if key in state:
            state[f'{key}_x'] = state.pop(key)
    assert detect_family(state) == family


def test_wrong_family_says_what_was_seen():
    with pytest.raises(ConversionError, match="said to be of family 'coarse_vqa'.*those of 'fine'"):
        to_ours(full_size('fine'), 'coarse_vqa')
    with pytest.raises(ConversionError, match="unknown family 'vqa'; known are auto, coarse_pre"):
        resolve_family({}, 'vqa')


def test_foreign_keys_are_refused():
    state = {f'module_list.{i}.weight': torch.zeros(1) for i in range(9)}
    with pytest.raises(ConversionError, match=r'no checkpoint known here.*module_list\.0'):
        to_ours(state)
    with pytest.raises(ConversionError, match='not those of a fiber_mm model'):
        to_original(full_size('fine'))


def test_ours_is_not_converted_twice():
    there = to_ours(tiny('fine'), arch=TINY)
    with pytest.raises(ConversionError, match='our own keys already'):
        to_ours(there.state_dict)


def test_incomplete_weights_of_ours_are_refused():
    there = to_ours(tiny('fine'), arch=TINY)
    del there.state_dict['bbox_head.bias0']
    with pytest.raises(ConversionError, match=r'missing  bbox_head\.bias0'):
        to_original(there.state_dict, there.unused)
