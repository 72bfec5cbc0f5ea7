"""Windows of the Swin Transformer as free functions; token maps are (B, H, W, C)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


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
