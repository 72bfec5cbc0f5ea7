"""Scaled dot-product attention with the additive masks of the original."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

PADDING_BIAS = -10000.0


def padding_bias(mask: Tensor, dtype) -> Tensor:
    """(B, T) bool, True = token -> (B, 1, 1, T) additive, -10000 at padding."""
    return (~mask)[:, None, None, :].to(dtype) * PADDING_BIAS


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, T, heads * d) -> (B, heads, T, d), a view."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def attend(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """Attention over heads, merged again.

    Args:
        query: (B, heads, T, d); key, value: (B, heads, S, d).
        bias: additive, broadcastable to (B, heads, T, S).
        dropout: rate for the attention probabilities.
    Returns: (B, T, heads * d).
    """
    if bias is not None:
        bias = bias.to(query.dtype)
    out = F.scaled_dot_product_attention(query, key, value, bias, dropout)
    return out.transpose(1, 2).flatten(-2)
