"""The neck is mmdet's FPN, but for DropBlock in training."""

import pytest
import torch
from mmdet.models.necks import FPN

from fiber_mm.core.local_init import near_identity_
from fiber_mm.models.necks.fiber_fpn import FROM_ABOVE, FiberFPN, SharedDropBlock
from fiber_mm.registry import MODELS

SETTINGS = dict(in_channels=[4, 8, 16], out_channels=6, num_outs=5, add_extra_convs='on_output')
DROP = dict(drop_prob=0.3, block_size=3)


def maps():
    return [torch.randn(2, c, 32 // s, 32 // s) for c, s in zip((4, 8, 16), (1, 2, 4))]


def pair(**settings):
    neck, plain = MODELS.build(dict(type='FiberFPN', **SETTINGS, **settings)), FPN(**SETTINGS)
    plain.load_state_dict(neck.state_dict())  # the same names and shapes
    return neck, plain


@pytest.mark.parametrize(('settings', 'training'), [({}, True), (dict(drop_block=DROP), False)])
def test_equals_mmdet(settings, training):
    neck, plain = pair(**settings)
    assert isinstance(neck, FiberFPN)
    inputs = maps()
    for a, b in zip(neck.train(training)(inputs), plain(inputs)):
        assert torch.equal(a, b)


def test_starting_values_are_uniform_by_what_comes_in():
    neck = MODELS.build(dict(type='FiberFPN', **{**SETTINGS, 'in_channels': [16, 64, 256]}))
    neck.init_weights()
    for conv in (*neck.lateral_convs, *neck.fpn_convs):
        weight = conv.conv.weight
        bound = (3 / weight[0].numel()) ** 0.5
        assert 0.9 * bound < weight.abs().max() <= bound
        assert not conv.conv.bias.any()


def test_only_the_finer_levels_are_dropped():
    neck, plain = pair(drop_block=DROP)
    inputs = maps()
    seen, wanted = neck.train()(inputs), plain(inputs)
    same = [torch.equal(a, b) for a, b in zip(seen, wanted)]
    # The two finer of the three levels; the extra levels come from the top one.
    assert same == [False, False, True, True, True]


def test_one_mask_for_all_channels():
    block = SharedDropBlock(**DROP).train()
    kept = block(torch.ones(3, 5, 20, 20)) > 0
    assert (kept == kept[:, :1]).all()
    assert 0 < kept.sum() < kept.numel()
    assert not torch.equal(kept[0], kept[1])


def test_blocks_are_dropped_whole():
    block = SharedDropBlock(drop_prob=0.05, block_size=3).train()
    dropped = block(torch.ones(1, 1, 40, 40)) == 0
    assert dropped.any()
    # Each dropped cell lies in a dropped square of 3 x 3, cut off at the border.
    padded = torch.nn.functional.pad(dropped.float(), (2, 2, 2, 2), value=1.0)
    full = torch.nn.functional.avg_pool2d(padded, 3, stride=1) > 0.999
    covered = torch.nn.functional.max_pool2d(full.float(), 3, stride=1) > 0
    assert torch.equal(covered, dropped)


def test_the_mean_is_kept():
    block = SharedDropBlock(**DROP).train()
    x = torch.ones(2, 4, 32, 32)
    assert block(x).mean().item() == pytest.approx(1, abs=1e-5)
    share = (block(torch.ones(16, 1, 64, 64)) == 0).float().mean().item()
    assert 0.2 < share < 0.3  # blocks overlap, so a little less than drop_prob


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_the_mean_is_kept_in_half_precision(dtype):
    """P3 of eight images of 800 x 1344: more cells than fp16 can count."""
    x = torch.ones(8, 1, 100, 168, dtype=dtype)
    dropped = SharedDropBlock(**DROP).train()(x)
    assert dropped.dtype == dtype
    assert dropped.float().mean().item() == pytest.approx(1, abs=2e-3)


def test_evaluation_drops_nothing():
    x = torch.randn(1, 2, 8, 8)
    assert SharedDropBlock(**DROP).eval()(x) is x
    assert SharedDropBlock(0.0, 3).train()(x) is x


@pytest.mark.parametrize('settings', [(1.0, 3), (-0.1, 3), (0.3, 4)])
def test_bad_settings(settings):
    with pytest.raises(ValueError, match='odd block_size'):
        SharedDropBlock(*settings)


def test_near_identity_hands_on_each_levels_own_map():
    neck = MODELS.build(dict(type='FiberFPN', **SETTINGS, near_identity=True))
    torch.manual_seed(1)
    neck.init_weights()
    torch.manual_seed(1)
    for conv, factor in zip(neck.lateral_convs, FROM_ABOVE):
        weight = conv.conv.weight.detach().clone()
        conv.init_weights()  # the same random numbers again
        torch.testing.assert_close(weight, factor * conv.conv.weight)
    for level, conv in enumerate(neck.fpn_convs):
        weight = conv.conv.weight.detach().clone()
        conv.init_weights()
        wanted = conv.conv.weight.detach()
        torch.testing.assert_close(weight, near_identity_(wanted) if level < 3 else wanted)


def test_starting_values_are_set_once():
    neck = MODELS.build(dict(type='FiberFPN', **SETTINGS, near_identity=True))
    neck.init_weights()
    before = neck.fpn_convs[0].conv.weight.clone()
    neck.init_weights()
    assert torch.equal(neck.fpn_convs[0].conv.weight, before)
