"""A small coarse-stage model and its batches."""

from __future__ import annotations

import torch

from fiber_mm.structures import TextBatch

ENCODER = dict(
    swin=dict(
        embed_dim=8,
        depths=(1, 1, 2, 2),
        num_heads=(1, 1, 2, 2),
        window_size=2,
        shift_single_window=False,
        output_norms=(),
        final_norm=True,
    ),
    roberta=dict(
        vocab_size=30,
        hidden_size=12,
        num_layers=4,
        num_heads=2,
        intermediate_size=16,
        max_position_embeddings=18,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        init_std=None,
    ),
    fusion=dict(num_blocks=3, norm_i2t_query=True, fused_text_norm=False, gate_init=0.5),
    joint_dim=10,
)
PRETRAIN = dict(type='FiberPretrain', **ENCODER)


def batch(size: int = 4, length: int = 6, seed: int = 0) -> tuple[torch.Tensor, TextBatch]:
    """Random images of 64 pixels and texts with two hidden words each."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(size, 3, 64, 64, generator=generator)
    ids = torch.randint(5, 30, (size, length), generator=generator)
    ids[:, 0] = 0
    ids[:, -1] = 2
    ids[::2, -2:] = torch.tensor([2, 1])  # every second text is shorter
    masked = ids.clone()
    masked[:, 1:3] = 4
    positions = (torch.arange(size)[:, None] * length + torch.tensor([1, 2])).flatten()
    return images, TextBatch(ids, ids != 1, masked, positions, ids.flatten()[positions])


def part(images: torch.Tensor, texts: TextBatch, rows: slice) -> tuple[torch.Tensor, TextBatch]:
    """Some rows of a batch."""
    ids, mask, masked = texts.input_ids[rows], texts.attention_mask[rows], texts.masked_ids[rows]
    hidden = (ids != masked).flatten().nonzero()[:, 0]
    return images[rows], TextBatch(ids, mask, masked, hidden, ids.flatten()[hidden])
