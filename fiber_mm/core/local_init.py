"""Starting values for training from scratch in minutes.

A pre-trained encoder has attention heads that look at the neighbouring patch or at the next word;
a new one has to find them first, which takes longer than the whole training of a small model. Here
they are there from the start, as convolution-like heads are in ConViT (d'Ascoli et al., 2021).
Random 3x3 convolutions on the way up lose what the encoder tells of a small object, so these begin
near the identity. Only values change: every parameter goes on learning, names and shapes are as
ever.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from fiber_mm.core.roberta import Roberta
from fiber_mm.core.swin import SwinTransformer, WindowAttention

# How fast a window's head forgets patches beside the one it looks at, and the least it may give.
SHARPNESS, FLOOR = 1.0, -8.0
# What the random part of queries and keys keeps, so that positions decide at the start.
WINDOW_CONTENT, TEXT_CONTENT = 0.3, 0.1
# Words that the heads of a text layer look at, relative to their own: before, after, own, after
# the next. The share of the width that tells positions, and the factor of its queries and keys.
WORD_SHIFTS = (-1, 1, 0, 2)
POSITION_SHARE, POSITION_SCALE = 1 / 3, 1.6
# What random kernels keep beside the identity.
KERNEL_NOISE = 0.3


@torch.no_grad()
def near_identity_(kernel: torch.Tensor, kept: float = KERNEL_NOISE) -> torch.Tensor:
    """Shrinks a random (C, C, k, k) kernel and adds the identity to its centre, in place."""
    kernel *= kept
    centre = kernel[:, :, kernel.shape[2] // 2, kernel.shape[3] // 2]
    centre += torch.eye(*centre.shape, dtype=kernel.dtype, device=kernel.device)
    return kernel


def nearest_offsets(count: int) -> list[tuple[int, int]]:
    """The ``count`` nearest neighbours (dy, dx) of a patch, itself left out: right, below, ..."""
    reach = math.ceil(math.sqrt(count)) + 1
    steps = range(-reach, reach + 1)
    offsets = [(y, x) for y in steps for x in steps if (y, x) != (0, 0)]
    offsets.sort(key=lambda o: (o[0] ** 2 + o[1] ** 2, math.atan2(*o) % math.tau))
    return offsets[:count]


@torch.no_grad()
def look_at_neighbours(attention: WindowAttention) -> None:
    """Position biases with which head ``h`` looks at the ``h``-th nearest neighbour.

    Args:
        attention: Of a Swin block; its position-bias table is set, the random queries and keys
            shrink.
    """
    side = torch.arange(1 - attention.size, attention.size, dtype=torch.float32)
    # Rows of the table are (query - key) shifts, down first (see window.relative_position_index).
    for head, (dy, dx) in enumerate(nearest_offsets(attention.heads)):
        distance = (side[:, None] + dy) ** 2 + (side[None] + dx) ** 2
        table = (-SHARPNESS * distance).clamp(min=FLOOR)
        attention.relative_position_bias_table[:, head] = table.flatten()
    width = attention.qkv.in_features
    attention.qkv.weight[: 2 * width] *= WINDOW_CONTENT


def local_windows(swin: SwinTransformer) -> None:
    """:func:`look_at_neighbours` in every block."""
    for module in swin.modules():
        if isinstance(module, WindowAttention):
            look_at_neighbours(module)


def position_code(count: int, frequencies: torch.Tensor) -> torch.Tensor:
    """Sines and cosines of positions: (count, 2 * frequencies), pairs side by side."""
    angle = torch.arange(count, dtype=torch.float32)[:, None] * frequencies
    return math.sqrt(2) * torch.stack([angle.cos(), angle.sin()], -1).flatten(1)


@torch.no_grad()
def local_words(roberta: Roberta, shifts: Sequence[int] = WORD_SHIFTS) -> None:
    """Heads that look at the words before and after.

    A third of the width holds nothing but the position, as sines and cosines; turning these by
    a fixed angle, which a query matrix can do, asks for the position some words away (Vaswani et
    al., 2017, section 3.5). Layers hardly write into that part.

    Args:
        roberta: Its position table, the queries and keys of its self-attentions and what is
            written into the positions' part of the width are set.
        shifts: Distance in words of the heads, in turn.
    Raises: ValueError: if the width of a head is odd.
    """
    cfg = roberta.cfg
    head_width = cfg.hidden_size // cfg.num_heads
    if head_width % 2:
        raise ValueError(
            f'local_init needs heads of an even width, but {cfg.hidden_size} / {cfg.num_heads} '
            f'is {head_width}'
        )
    count = max(1, int(cfg.hidden_size * POSITION_SHARE) // 2)
    width = 2 * count
    frequencies = math.pi * torch.linspace(0.08, 1.0, count)
    tables = roberta.embeddings
    positions = tables.position_embeddings.weight
    positions.zero_()
    positions[:, :width] = position_code(len(positions), frequencies)
    positions[cfg.pad_token_id] = 0
    tables.word_embeddings.weight[:, :width] = 0

    pairs = torch.linspace(0, count - 1, head_width // 2).round().long()
    for layer in roberta.encoder.layer:
        attention = layer.attention.self
        for linear in (attention.query, attention.key):
            linear.weight *= TEXT_CONTENT
        for head in range(cfg.num_heads):
            turn = frequencies[pairs] * shifts[head % len(shifts)]
            rows = head * head_width + torch.arange(0, head_width, 2)
            _set_pairs(attention.key, rows, 2 * pairs, torch.zeros_like(turn))
            _set_pairs(attention.query, rows, 2 * pairs, turn)
        layer.attention.output.dense.weight[:width] = 0
        layer.output.dense.weight[:width] *= TEXT_CONTENT


def _set_pairs(
    linear: nn.Linear, rows: torch.Tensor, columns: torch.Tensor, turn: torch.Tensor
) -> None:
    """Output pairs ``rows`` become the input pairs ``columns``, turned by an angle."""
    weight = linear.weight
    weight[rows], weight[rows + 1] = 0.0, 0.0
    cos, sin = POSITION_SCALE * turn.cos(), POSITION_SCALE * turn.sin()
    weight[rows, columns], weight[rows, columns + 1] = cos, -sin
    weight[rows + 1, columns], weight[rows + 1, columns + 1] = sin, cos
