"""Which block pairs with which layer, and the image's side of the exchange."""

import pytest
import torch
import torch.nn.functional as F

from fiber_mm.core import FusionPlan
from fiber_mm.core.attention import padding_bias
from fiber_mm.core.fusion import FusedPair, FusedWindowAttention

from .conftest import randomize


def test_the_plan_of_fiber_base():
    plan = FusionPlan((2, 2, 18, 2), 12, 6)
    assert plan.pairs == (
        FusedPair(2, 14, 6),
        FusedPair(2, 15, 7),
        FusedPair(2, 16, 8),
        FusedPair(2, 17, 9),
        FusedPair(3, 0, 10),
        FusedPair(3, 1, 11),
    )
    assert plan.text_start == 6
    assert plan.alone == ((0, 0), (0, 1), (1, 0), (1, 1), *((2, i) for i in range(14)))
    assert plan.fuses(2, 14)
    assert not plan.fuses(2, 13)


@pytest.mark.parametrize('count', range(9))
def test_the_plan_may_start_in_any_stage(count):
    depths, layers = (2, 1, 3, 2), 9
    plan = FusionPlan(depths, layers, count)
    order = [*plan.alone, *(pair[:2] for pair in plan.pairs)]
    assert order == [(s, b) for s, depth in enumerate(depths) for b in range(depth)]
    assert [pair.layer for pair in plan.pairs] == list(range(layers - count, layers))
    assert plan.text_start == layers - count


@pytest.mark.parametrize(('depths', 'layers', 'count'), [((1, 1), 12, 3), ((2, 2), 2, 3)])
def test_more_fused_blocks_than_one_side_has_are_refused(depths, layers, count):
    with pytest.raises(ValueError, match=f'{count} fused blocks are more than'):
        FusionPlan(depths, layers, count)


@pytest.mark.parametrize('norm', [False, True])
def test_image_to_text_attention_window_by_window(norm):
    """The original repeats the text for every window; the result must be the same."""
    torch.manual_seed(0)
    attn = FusedWindowAttention(8, 3, 2, 10, norm, gate_init=0.7)
    randomize(attn)
    x, text = torch.randn(2, 6, 3, 8), torch.randn(2, 5, 10)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    out = attn.fuse(x, text, padding_bias(mask, x.dtype))
    for image in range(2):
        memory = F.linear(text[image], attn.qkv_text_i2t.weight, attn.qkv_text_i2t.bias)
        key, value = memory[:, :8].view(5, 2, 4), memory[:, 8:].view(5, 2, 4)
        for start in (0, 3):
            window = x[image, start : start + 3].reshape(9, 8)
            query = F.linear(attn.norm_i2t_i(window), attn.qkv_i2t.weight, attn.qkv_i2t.bias)
            query = query.view(9, 2, 4) / 4**0.5
            scores = torch.einsum('nhd,thd->hnt', query, key)
            scores = scores.masked_fill(~mask[image], -1e4)
            cross = torch.einsum('hnt,thd->nhd', scores.softmax(-1), value).reshape(9, 8)
            wanted = window + 0.7 * F.linear(cross, attn.proj_i2t.weight, attn.proj_i2t.bias)
            seen = out[image, start : start + 3].reshape(9, 8)
            torch.testing.assert_close(seen, wanted)


def test_the_norm_on_the_query_exists_by_setting_only():
    names = [set(FusedWindowAttention(8, 3, 2, 10, n, 0.0).state_dict()) for n in (False, True)]
    assert names[1] - names[0] == {'norm_i2t_i.weight', 'norm_i2t_i.bias'}
