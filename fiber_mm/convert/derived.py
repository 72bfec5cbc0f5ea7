"""The derived buffers of original checkpoints, computed again for the way back."""

from __future__ import annotations

import torch
from torch import Tensor

from fiber_mm.convert.arch import Arch
from fiber_mm.core import window


def derived_buffer(key: str, arch: Arch) -> Tensor | None:
    """The buffer that an original checkpoint holds under `key`.

    Args:
        key: an original key.
        arch: sizes of the model; a coarse model's image has 32 windows' sides.

    Returns:
        The buffer, or None for the training queues, which are left out: the images alone take
        7 GB, and the original fills them anew.
    """
    leaf = key.rsplit('.', 1)[-1]
    if leaf == 'relative_position_index':
        return window.relative_position_index(arch.window)
    if leaf == 'attn_mask':
        stage = int(key.split('layers.')[1].split('.')[0])
        side = arch.window * 2 ** (len(arch.depths) - 1 - stage)
        return window.shift_mask(side, side, arch.window, arch.window // 2, torch.device('cpu'))
    if leaf == 'position_ids':
        return torch.arange(arch.positions)[None]
    if 'cell_anchors' in key:
        # One square anchor a level, 8 strides wide, centred on its cell, corners inclusive.
        stride = 8 * 2 ** int(leaf)
        centre, half = (stride - 1) / 2, (8 * stride - 1) / 2
        return torch.tensor([[centre - half] * 2 + [centre + half] * 2])
    return None
