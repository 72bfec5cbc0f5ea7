"""Scaled dot-product attention with the additive masks of the original."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

PADDING_BIAS = -10000.0
#: What is called with the probabilities (B, heads, T, S) of an attention.
Probe = Callable[[Tensor], None]


def padding_bias(mask: Tensor, dtype) -> Tensor:
    """(B, T) bool, True = token -> (B, 1, 1, T) additive, -10000 at padding."""
    return (~mask)[:, None, None, :].to(dtype) * PADDING_BIAS


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, T, heads * d) -> (B, heads, T, d), a view."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None = None,
    dropout: float = 0.0,
    probe: Probe | None = None,
) -> Tensor:
    """Attention over heads, merged again.

    Args:
        query: (B, heads, T, d); key, value: (B, heads, S, d).
        bias: additive, broadcastable to (B, heads, T, S).
        dropout: rate for the attention probabilities.
        probe: is shown the probabilities, before dropout, where somebody wants to see them; the
            attention is then written out, with the same result within rounding.
    Returns: (B, T, heads * d).
    """
    if bias is not None:
        bias = bias.to(query.dtype)
    if probe is None:
        out = F.scaled_dot_product_attention(query, key, value, bias, dropout)
    else:
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
        probs = (scores if bias is None else scores + bias).softmax(-1)
        probe(probs)
        out = F.dropout(probs, dropout) @ value
    return out.transpose(1, 2).flatten(-2)


def attend_with_bias(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """Attention whose additive bias may be learned; heads are not merged.

    On a CPU a bias that needs a gradient sends ``scaled_dot_product_attention`` to its general
    path, which scales both sides and looks for rows that are masked as a whole. There are none
    here, and without that a forward takes two thirds of the time.

    Args:
        query, key, value: (B, heads, T, d).
        bias: broadcastable to (B, heads, T, T), of the same dtype, finite.
    Returns: (B, heads, T, d).
    """
    learned = torch.is_grad_enabled() and bias.requires_grad
    # bf16 products of many small matrices are slow on most CPUs; the general path avoids them.
    if not learned or query.device.type != 'cpu' or query.dtype == torch.bfloat16:
        return F.scaled_dot_product_attention(query, key, value, bias)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    return scores.add_(bias).softmax(-1) @ value
