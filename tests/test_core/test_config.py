"""Settings check themselves."""

import pytest

from fiber_mm.core import FiberCfg, FusionCfg, RobertaCfg, SwinCfg


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
