"""The plain formulation: torchvision's operator, ``nn.Linear``, attention written out.

It is near what the original computes with, and stands for it in ratios taken in one run.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from fiber_mm.core import window
from fiber_mm.core.linear import set_linear_backend
from fiber_mm.core.swin import SwinBlock, WindowAttention, drop_path


def attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """Scaled dot-product attention with all its intermediate results."""
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    if bias is not None:
        scores = scores + bias
    return F.dropout(scores.softmax(-1), dropout) @ value


def attend_in_windows(attn: WindowAttention, windows: Tensor, mask: Tensor | None) -> Tensor:
    """(B * W, N, C) windows and their (W, N, N) shift masks -> (B * W, N, C)."""
    count, length, dim = windows.shape
    qkv = attn.qkv(windows).reshape(count, length, 3, attn.heads, dim // attn.heads)
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1) + attn.bias()[None]
    if mask is not None:
        scores = (scores.unflatten(0, (-1, len(mask))) + mask[None, :, None]).flatten(0, 1)
    out = scores.softmax(-1) @ value
    return attn.proj(out.transpose(1, 2).reshape(count, length, dim))


@functools.cache
def shift_mask(height: int, width: int, size: int, shift: int, device: torch.device) -> Tensor:
    """``window.shift_mask``, kept."""
    with torch.inference_mode(False):
        return window.shift_mask(height, width, size, shift, device)


def window_attention(self: SwinBlock, x: Tensor, plans: object) -> Tensor:
    """``SwinBlock.window_attention`` step by step, as in the official detection code."""
    size = self.attn.size
    height, width = x.shape[1:3]
    shift = self.shift_for(height, width)
    x = window.pad_to_multiple(self.norm1(x), size)
    padded = x.shape[1:3]
    mask = shift_mask(*padded, size, shift, x.device) if shift else None
    if shift:
        x = x.roll((-shift, -shift), (1, 2))
    windows = attend_in_windows(self.attn, window.partition(x, size), mask)
    x = window.reverse(windows, size, *padded)
    if shift:
        x = x.roll((shift, shift), (1, 2))
    return x[:, :height, :width].contiguous()


def feed_forward(self: SwinBlock, x: Tensor) -> Tensor:
    """``SwinBlock.feed_forward`` in one piece."""
    return x + drop_path(self.mlp(self.norm2(x)), self.drop_path_rate, self.training)


@contextlib.contextmanager
def plain_formulation() -> Iterator[None]:
    """Within it, models run plainly."""
    previous = set_linear_backend('linear')
    try:
        with (
            mock.patch.object(F, 'scaled_dot_product_attention', attention),
            mock.patch.object(SwinBlock, 'window_attention', window_attention),
            mock.patch.object(SwinBlock, 'feed_forward', feed_forward),
            mock.patch.dict(os.environ, FIBER_DEFORM_BACKEND='torchvision'),
        ):
            yield
    finally:
        set_linear_backend(previous)
