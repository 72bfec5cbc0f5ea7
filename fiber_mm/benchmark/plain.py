"""The plain formulation: torchvision's operator, ``nn.Linear``, attention written out.

It is near what the original computes with, and stands for it in ratios taken in one run.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from unittest import mock

import torch.nn.functional as F
from torch import Tensor

from fiber_mm.core.linear import set_linear_backend
from fiber_mm.core.swin import WindowAttention


def attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """Scaled dot-product attention with all its intermediate results."""
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    if bias is not None:
        scores = scores + bias
    return F.dropout(scores.softmax(-1), dropout) @ value


def window_attention(self: WindowAttention, windows: Tensor, mask: Tensor | None = None) -> Tensor:
    """``WindowAttention.forward`` as in the official Swin Transformer."""
    count, length, dim = windows.shape
    qkv = self.qkv(windows).reshape(count, length, 3, self.heads, dim // self.heads)
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1) + self.bias()[None]
    if mask is not None:
        scores = scores.unflatten(0, (-1, len(mask))) + mask[None, :, None]
        scores = scores.flatten(0, 1)
    out = scores.softmax(-1) @ value
    return self.proj(out.transpose(1, 2).reshape(count, length, dim))


@contextlib.contextmanager
def plain_formulation() -> Iterator[None]:
    """Within it, models run plainly."""
    previous = set_linear_backend('linear')
    try:
        with (
            mock.patch.object(F, 'scaled_dot_product_attention', attention),
            mock.patch.object(WindowAttention, 'forward', window_attention),
            mock.patch.dict(os.environ, FIBER_DEFORM_BACKEND='torchvision'),
        ):
            yield
    finally:
        set_linear_backend(previous)
