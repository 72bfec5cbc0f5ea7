"""Settings check themselves."""

import pytest
import torch

from fiber_mm.core import FiberCfg, FiberEncoder, FusionCfg, RobertaCfg, SwinCfg

from .conftest import tiny_cfg


@pytest.mark.parametrize(
    ('cls', 'values', 'seen'),
    [
        (SwinCfg, dict(embed_dim=0), 'embed_dim'),
        (SwinCfg, dict(depths=(2, 0, 2, 2)), 'depths'),
        (SwinCfg, dict(depths=()), 'depths'),
        (SwinCfg, dict(depths=(2, 2)), 'differ in length'),
        (SwinCfg, dict(window_size=7.5), 'window_size'),
        (SwinCfg, dict(num_heads=(3, 8, 16, 32)), 'stage 0 128 is not a multiple of its heads 3'),
        (SwinCfg, dict(output_norms=(4,)), 'output_norms'),
        (SwinCfg, dict(frozen_stages=5), 'frozen_stages'),
        (SwinCfg, dict(frozen_stages=-2), 'frozen_stages'),
        (SwinCfg, dict(drop_path_rate=1.0), 'drop_path_rate'),
        (RobertaCfg, dict(num_layers=0), 'num_layers'),
        (RobertaCfg, dict(hidden_size=100), 'hidden_size 100 is not a multiple of num_heads 12'),
        (RobertaCfg, dict(hidden_dropout=-0.1), 'hidden_dropout'),
        (RobertaCfg, dict(vocab_size=5, pad_token_id=5), 'pad_token_id 5'),
        (FusionCfg, dict(num_blocks=-1), 'num_blocks'),
        (FusionCfg, dict(num_blocks=1.5), 'num_blocks'),
        (FiberCfg, dict(roberta=None), '6 fused blocks need a text side'),
    ],
)
def test_a_bad_value_is_named(cls, values, seen):
    with pytest.raises(ValueError, match=seen):
        cls(**values)


def test_lists_become_tuples_and_settings_can_be_compared_and_hashed():
    cfg = SwinCfg(depths=[2, 2, 18, 2], num_heads=[4, 8, 16, 32], output_norms=[1, 2, 3])
    assert cfg == SwinCfg()
    assert hash(cfg) == hash(SwinCfg())


def test_derived_sizes():
    assert [SwinCfg().width(stage) for stage in range(4)] == [128, 256, 512, 1024]
    assert RobertaCfg().max_tokens == 512


def matrices(encoder):
    """Name and spread of every linear layer's weight, with its fan-in."""
    for name, module in encoder.named_modules():
        if isinstance(module, torch.nn.Linear) and module.weight.numel() > 200:
            yield name, module.weight.std().item(), module.in_features


@pytest.mark.parametrize('std', [0.02, 0.1])
def test_init_std_is_the_spread_of_new_matrices(std):
    encoder = FiberEncoder(tiny_cfg(swin=dict(init_std=std), roberta=dict(init_std=std)))
    for name, seen, _ in matrices(encoder.image):
        if 'i2t' not in name:
            assert seen == pytest.approx(std, rel=0.2), name
    for name, seen, _ in matrices(encoder.text):
        assert seen == pytest.approx(std, rel=0.2), name


def test_without_init_std_the_spread_follows_the_width():
    encoder = FiberEncoder(tiny_cfg(swin=dict(init_std=None), roberta=dict(init_std=None)))
    seen = [*matrices(encoder.image), *matrices(encoder.text)]
    assert len({width for _, _, width in seen}) > 3
    for name, spread, width in seen:
        assert spread == pytest.approx(0.8 / width**0.5, rel=0.25), name
    words = encoder.text.embeddings.word_embeddings.weight
    assert words.std().item() == pytest.approx(0.02, rel=0.1)


def test_word_init_std_is_for_the_word_embedding_alone():
    embeddings = FiberEncoder(tiny_cfg(roberta=dict(word_init_std=1.0))).text.embeddings
    assert embeddings.word_embeddings.weight[2:].std().item() == pytest.approx(1, rel=0.1)
    assert not embeddings.word_embeddings.weight[1].any()
    assert embeddings.position_embeddings.weight.std().item() == pytest.approx(0.02, rel=0.2)
