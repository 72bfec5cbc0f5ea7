from dataclasses import replace

import pytest
import torch

from fiber_mm.convert import ConversionError, initial_weights, to_ours
from fiber_mm.convert.arch import BASE
from fiber_mm.convert.layout import layout
from fiber_mm.core.window import resize_bias_table

from .helpers import TINY, full_size, manifest, roberta, swin, tiny


@pytest.mark.parametrize('target', ['fine', 'fine_refexp'])
def test_coarse_to_fine_loads_what_the_original_loads(target):
    content = manifest('coarse_init')
    wanted = content[target]
    result = initial_weights([full_size('coarse_init')], target)
    report = result.report
    entries = layout(target, BASE)
    original = {entry.ours: key for key, entry in entries.items() if entry.ours}

    assert {original[ours]: key for key, ours in report.used.items()} == wanted['loads']
    # Of the fresh ones our model does not hold the closed-set classifier.
    unused = {key for key, entry in entries.items() if not (entry.ours or entry.derived)}
    assert {original[key] for key in report.fresh} | unused == set(wanted['fresh'])
    dropped = {k for k in report.dropped if content['tensors'][k]['role'] == 'param'}
    assert dropped == set(wanted['dropped'])
    assert not report.resized


def test_coarse_of_another_window_is_resized():
    wide = replace(TINY, window=3)
    state = tiny('coarse_vqa', wide)
    result = initial_weights([state], 'fine', window=2, arch=wide)
    key = 'layers.2.blocks.1.attn.relative_position_bias_table'
    table = result.state_dict[f'backbone.encoder.image.{key}']
    torch.testing.assert_close(table, resize_bias_table(state[f'vit_model.{key}'], 2))
    assert len(result.report.resized) == sum(TINY.depths)
    assert result.report.resized[f'backbone.encoder.image.{key}'] == 'window 3 -> 2'


def test_our_coarse_weights_start_our_fine_model():
    ours = to_ours(tiny('coarse_pretrain'), arch=TINY).state_dict
    result = initial_weights([ours], 'fine')
    theirs = initial_weights([tiny('coarse_pretrain')], 'fine', arch=TINY)
    assert result.state_dict.keys() == theirs.state_dict.keys()
    key = 'text.encoder.layer.3.crossattention_t2i.self.key.weight'
    assert result.state_dict[f'backbone.encoder.{key}'] is ours[f'encoder.{key}']


def test_stripped_backbone_file_starts_the_fine_stage():
    state = tiny('coarse_init')
    spare = [key for key, e in layout('coarse_init', TINY).items() if not e.ours]
    for key in spare:
        del state[key]
    result = initial_weights([state], 'fine', arch=TINY)
    assert not any(key.startswith('backbone.encoder.text') for key in result.report.fresh)
    del state['vit_model.layers.0.blocks.0.mlp.fc1.weight']
    with pytest.raises(ConversionError, match='missing  vit_model.layers.0.blocks.0.mlp.fc1'):
        initial_weights([state], 'fine', arch=TINY)


@pytest.mark.parametrize('prefix', ['roberta.', ''])
def test_roberta(prefix):
    state = roberta(prefix)
    result = initial_weights([state])
    key = 'encoder.layer.1.attention.self.query.weight'
    assert result.state_dict[f'encoder.text.{key}'] is state[prefix + key]
    assert result.report.dropped.keys() == {
        f'{prefix}pooler.dense.weight',
        'lm_head.bias',
        f'{prefix}embeddings.position_ids',
    }
    assert 'encoder.image.patch_embed.proj.weight' in result.report.fresh


def test_swin():
    state = swin()
    result = initial_weights([state])
    assert result.report.family == 'swin'
    assert result.state_dict['encoder.image.norm.weight'] is state['norm.weight']
    assert 'head.weight' in result.report.dropped
    assert any(key.endswith('alpha_i2t') for key in result.report.fresh)
    assert not any('text' not in k and 'i2t' not in k for k in result.report.fresh)


def test_swin_and_roberta_together_leave_only_the_fusion_fresh():
    result = initial_weights([swin(), roberta()], window=3)
    assert all('i2t' in key or 't2i' in key for key in result.report.fresh)
    table = result.state_dict['encoder.image.layers.0.blocks.0.attn.relative_position_bias_table']
    assert table.shape == (25, 1)
    fine = initial_weights([swin(), roberta()], 'fine')
    assert 'norm.weight' in fine.report.dropped
    assert 'backbone.encoder.image.patch_embed.proj.weight' in fine.state_dict


def test_what_starts_nothing_is_refused():
    with pytest.raises(ConversionError, match="family 'fine' starts no model"):
        initial_weights([full_size('fine')])
    with pytest.raises(ConversionError, match="unknown target 'vqa'"):
        initial_weights([full_size('coarse_init')], 'vqa')
    state = roberta()
    state['roberta.encoder.layer.0.attention.self.query.weights'] = state.pop(
        'roberta.encoder.layer.0.attention.self.query.weight'
    )
    with pytest.raises(ConversionError, match=r'unknown  encoder\.layer\.0.*nearest wanted'):
        initial_weights([state])
