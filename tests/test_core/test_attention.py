"""Attention against softmax written out."""

import pytest
import torch
import torch.nn.functional as F

from fiber_mm.core.attention import attend, attend_with_bias, padding_bias, split_heads


def test_padding_bias():
    mask = torch.tensor([[True, True, False]])
    bias = padding_bias(mask, torch.float32)
    assert bias.shape == (1, 1, 1, 3)
    assert bias.flatten().tolist() == [0.0, 0.0, -10000.0]


def test_attend_against_loops():
    torch.manual_seed(0)
    batch, heads, width, length, keys = 2, 3, 4, 5, 6
    x, memory = torch.randn(batch, length, 12), torch.randn(batch, keys, 12)
    value = torch.randn(batch, keys, 12)
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    out = attend(
        split_heads(x, heads),
        split_heads(memory, heads),
        split_heads(value, heads),
        padding_bias(mask, x.dtype),
    )
    assert out.shape == x.shape
    for b in range(batch):
        seen = int(mask[b].sum())
        for h in range(heads):
            part = slice(h * width, (h + 1) * width)
            for t in range(length):
                scores = memory[b, :seen, part] @ x[b, t, part] / width**0.5
                wanted = scores.softmax(0) @ value[b, :seen, part]
                torch.testing.assert_close(out[b, t, part], wanted, rtol=1e-5, atol=1e-6)


def test_the_bias_follows_the_precision_of_the_query():
    query = torch.randn(1, 2, 3, 4, dtype=torch.bfloat16)
    out = attend(query, query, query, torch.zeros(1, 1, 1, 3))
    assert out.dtype == torch.bfloat16


@pytest.mark.parametrize('learned', [False, True])
@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
def test_attend_with_a_learned_bias(dtype, learned):
    torch.manual_seed(0)
    qkv = torch.randn(3, 4, 2, 5, 8).to(dtype).requires_grad_()
    bias = torch.randn(1, 2, 5, 5).to(dtype).requires_grad_(learned)
    inputs = (qkv, bias) if learned else (qkv,)
    grad = torch.randn(4, 2, 5, 8).to(dtype)
    out = attend_with_bias(*qkv, bias)
    wanted = F.scaled_dot_product_attention(*qkv, bias)
    assert out.dtype == dtype
    torch.testing.assert_close(out, wanted)
    found, expected = (torch.autograd.grad(o, inputs, grad) for o in (out, wanted))
    for one, other in zip(found, expected):
        torch.testing.assert_close(one, other)
