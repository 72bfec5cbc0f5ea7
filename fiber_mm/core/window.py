"""Windows of the Swin Transformer as free functions; token maps are (B, H, W, C).

The original pads, rolls and cuts the map in turn, and masks every window of a shifted block. A
:class:`WindowPlan` does all of it in one pass over the rows, and groups the windows by their
mask, so that the mask is added to the bias once for each of at most four groups.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Zero-pads a (B, H, W, C) map at the right and bottom to multiples of ``multiple``."""
    height, width = x.shape[1:3]
    bottom, right = -height % multiple, -width % multiple
    return F.pad(x, (0, 0, 0, right, 0, bottom)) if bottom or right else x


def partition(x: Tensor, size: int) -> Tensor:
    """(B, H, W, C) -> (B * H/size * W/size, size * size, C), windows row by row."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height // size, size, width // size, size, channels)
    return x.transpose(2, 3).reshape(-1, size * size, channels)


def reverse(windows: Tensor, size: int, height: int, width: int) -> Tensor:
    """Undoes :func:`partition`: (B * H/size * W/size, size * size, C) -> (B, H, W, C)."""
    channels = windows.shape[-1]
    x = windows.view(-1, height // size, width // size, size, size, channels)
    return x.transpose(2, 3).reshape(-1, height, width, channels)


def relative_position_index(size: int) -> Tensor:
    """Row of the bias table for every pair of tokens of a window: (size**2, size**2) int64."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing='ij')
    y, x = y.flatten(), x.flatten()
    dy = y[:, None] - y[None, :] + size - 1
    dx = x[:, None] - x[None, :] + size - 1
    return dy * (2 * size - 1) + dx


def shift_mask(height: int, width: int, size: int, shift: int, device: torch.device) -> Tensor:
    """Additive mask of a map that was rolled by ``shift``: 0 within a region, -100 across.

    Args:
        height, width: Size of the padded map, multiples of ``size``.
        size: Side of a window.
        shift: Tokens by which the map was rolled up and left, 0 < shift < size.
        device: Where to make it.
    Returns: (H/size * W/size, size**2, size**2) float32.
    """
    rows = torch.arange(height, device=device)
    cols = torch.arange(width, device=device)

    def region(position: Tensor, length: int) -> Tensor:
        return (position >= length - size).long() + (position >= length - shift).long()

    regions = region(rows, height)[:, None] * 3 + region(cols, width)[None, :]
    windows = partition(regions[None, :, :, None], size).squeeze(-1)
    differs = windows[:, None, :] != windows[:, :, None]
    return differs.to(torch.float32) * -100.0


class WindowPlan(NamedTuple):
    """Where the tokens of a batch of maps lie among those of their (shifted) windows.

    Attributes:
        index: (M,) row of the flat (B * H * W) map for each token of each window; 0 at padding.
        place: (B * H * W,) token of the windows for each row of the map.
        padding: (P,) tokens of the windows that are padding.
        groups: Windows in order: how many share the additive (N, N) mask that follows, None
            where nothing is masked; N = size**2.
    """

    index: Tensor
    place: Tensor
    padding: Tensor
    groups: tuple[tuple[int, Tensor | None], ...]


def plan_windows(
    batch: int, height: int, width: int, size: int, shift: int, device: torch.device
) -> WindowPlan:
    """Plan of a map that is padded at the right and bottom, rolled by ``shift``, and cut.

    Args:
        batch, height, width: Of the map, in tokens.
        size: Side of a window.
        shift: Tokens by which the map is rolled up and left, 0 <= shift < size.
        device: Where to make it; nothing waits for the device.
    """
    down, across = (math.ceil(side / size) for side in (height, width))
    rows = (torch.arange(down * size, device=device) + shift) % (down * size)
    cols = (torch.arange(across * size, device=device) + shift) % (across * size)
    outside = height * width * batch  # sorts behind every token
    first = torch.arange(batch, device=device).view(-1, 1, 1) * (height * width)
    token = first + rows[:, None] * width + cols
    token = token.where((rows[:, None] < height) & (cols < width), outside)
    token = partition(token[..., None], size).view(batch, down, across, size * size)

    tail = torch.arange(size, device=device) >= size - shift  # rolled in from the other side
    parts, groups = [], []
    edges = ((slice(0, -1), False), (slice(-1, None), True)) if shift else ((slice(None), False),)
    for below, bottom in edges:
        for beside, right in edges:
            part = token[:, below, beside]
            if not part.numel():
                continue
            region = (tail & bottom)[:, None] * 2 + (tail & right)
            region = region.flatten()
            mask = (region[:, None] != region).float() * -100.0 if bottom or right else None
            parts.append(part.flatten())
            groups.append((part.shape[:3].numel(), mask))
    index = torch.cat(parts)
    order = index.argsort(stable=True)
    return WindowPlan(
        index.where(index < outside, 0), order[:outside], order[outside:], tuple(groups)
    )


class _Rearrange(torch.autograd.Function):
    """Rows of a map to those of its windows or back; each is the other's derivative."""

    @staticmethod
    def forward(ctx, x, fill, plan, back):
        ctx.plan, ctx.back = plan, back
        if back:
            return x.index_select(0, plan.place)
        out = x.index_select(0, plan.index)
        if len(plan.padding):
            out.index_copy_(0, plan.padding, fill.expand(len(plan.padding), -1))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        plan = ctx.plan
        if ctx.back:
            grad_x = grad.index_select(0, plan.index)
            return grad_x.index_fill_(0, plan.padding, 0), None, None, None
        grad_fill = grad.index_select(0, plan.padding).sum(0)
        return grad.index_select(0, plan.place), grad_fill, None, None


def to_windows(x: Tensor, fill: Tensor, plan: WindowPlan) -> Tensor:
    """Flat rows of a map to those of its windows.

    Args:
        x: (B * H * W, C).
        fill: (C,) of the padding.
        plan: Of that map.
    Returns: (M, C), the tokens of each window in a row.
    """
    return _Rearrange.apply(x, fill, plan, False)


def gather_windows(x: Tensor, fill: Tensor, plan: WindowPlan, start: int, stop: int) -> Tensor:
    """:func:`to_windows` for the tokens from ``start`` to ``stop`` alone, on CPUs; no gradient."""
    out = x.index_select(0, plan.index[start:stop])
    padding = plan.padding  # in ascending order
    first, last = torch.searchsorted(padding, torch.tensor([start, stop])).tolist()
    if last > first:
        out.index_copy_(0, padding[first:last] - start, fill.expand(last - first, -1))
    return out


def from_windows(x: Tensor, plan: WindowPlan) -> Tensor:
    """Undoes :func:`to_windows`, less the padding: (M, C) -> (B * H * W, C)."""
    return _Rearrange.apply(x, None, plan, True)


def window_of_table(table: Tensor) -> int:
    """Side of the windows that a ((2w - 1)**2, heads) position-bias table belongs to."""
    return (math.isqrt(len(table)) + 1) // 2


def resize_bias_table(table: Tensor, window_size: int) -> Tensor:
    """Bicubic resize of a relative-position bias table to another window size.

    Args:
        table: ((2w - 1)**2, heads) for windows of side w.
        window_size: Side of the windows wanted.
    Returns: ((2 * window_size - 1)**2, heads), of the dtype of ``table``.
    Raises: ValueError: if the table is not that of a square window.
    Source: the position-bias resizing of the original's coarse checkpoint loader.
    """
    rows, heads = table.shape
    old, new = math.isqrt(rows), 2 * window_size - 1
    if old * old != rows or old % 2 == 0:
        raise ValueError(
            f'a bias table of {rows} rows is not that of a square window: '
            '(2w - 1)**2 rows are wanted'
        )
    if old == new:
        return table
    grid = table.float().t().reshape(1, heads, old, old)
    grid = F.interpolate(grid, size=(new, new), mode='bicubic')
    return grid.reshape(heads, new * new).t().contiguous().to(table.dtype)
