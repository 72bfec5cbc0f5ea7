"""How the two encoders meet: which block pairs with which layer, and the image's side of it.

The text's side is the cross-attention slot of :class:`fiber_mm.core.roberta.RobertaLayer`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from fiber_mm.core.attention import Probe, attend, split_heads
from fiber_mm.core.linear import Linear
from fiber_mm.core.swin import WindowAttention


class FusedPair(NamedTuple):
    """A Swin block (stage and block within it) and the text layer it exchanges with."""

    stage: int
    block: int
    layer: int


class FusionPlan:
    """The last n Swin blocks pair, in order, with the last n text layers.

    Each side reads the other's state before that block's update (FIBER, section 3.1). The
    only place where an index of a fused block is computed.

    Args:
        depths: Blocks of each Swin stage.
        num_layers: Number of text layers.
        num_blocks: n.
    Raises: ValueError: if one side has fewer than n.
    """

    def __init__(self, depths: tuple[int, ...], num_layers: int, num_blocks: int) -> None:
        blocks = [(stage, block) for stage, depth in enumerate(depths) for block in range(depth)]
        if num_blocks > min(len(blocks), num_layers):
            raise ValueError(
                f'{num_blocks} fused blocks are more than the {len(blocks)} Swin blocks or the '
                f'{num_layers} text layers there are'
            )
        layers = range(num_layers - num_blocks, num_layers)
        fused = blocks[len(blocks) - num_blocks :]
        self.pairs = tuple(FusedPair(*block, layer) for block, layer in zip(fused, layers))
        self.alone = tuple(blocks[: len(blocks) - num_blocks])
        self.text_start = num_layers - num_blocks

    def fuses(self, stage: int, block: int) -> bool:
        """Whether this Swin block is fused."""
        return any((stage, block) == (pair.stage, pair.block) for pair in self.pairs)


class FusedWindowAttention(WindowAttention):
    """Window attention with a gated image-to-text cross-attention behind its projection.

    The cross-attention is pointwise in the query, so it runs on the whole map; the original
    repeats the text keys for every window and computes the same.

    Args:
        dim, size, heads: see :class:`WindowAttention`; the cross-attention has as many heads.
        text_width: Width of the text tokens.
        norm_query: Whether the query passes a LayerNorm (``norm_i2t_i``).
        gate_init: Start value of ``alpha_i2t``.
    """

    probe: Probe | None = None  # see fiber_mm.core.recording

    def __init__(
        self,
        dim: int,
        size: int,
        heads: int,
        text_width: int,
        norm_query: bool,
        gate_init: float,
    ) -> None:
        super().__init__(dim, size, heads)
        self.alpha_i2t = nn.Parameter(torch.full((1,), float(gate_init)))
        self.qkv_i2t = Linear(dim, dim)
        self.qkv_text_i2t = Linear(text_width, 2 * dim)
        self.proj_i2t = Linear(dim, dim)
        self.norm_i2t_i = nn.LayerNorm(dim) if norm_query else nn.Identity()

    def fuse(self, x: Tensor, text: Tensor, text_bias: Tensor) -> Tensor:
        """``x + alpha_i2t * i2t(x, text)``.

        Args:
            x: (B, H, W, C), the output of the window attention.
            text: (B, T, D).
            text_bias: (B, 1, 1, T) additive mask of the text.
        Returns: (B, H, W, C).
        """
        query = split_heads(self.qkv_i2t(self.norm_i2t_i(x).flatten(1, 2)), self.heads)
        key, value = self.qkv_text_i2t(text).chunk(2, dim=-1)
        key, value = split_heads(key, self.heads), split_heads(value, self.heads)
        cross = attend(query, key, value, text_bias, probe=self.probe)
        cross = self.proj_i2t(cross).view(x.shape)
        return x + self.alpha_i2t.to(cross.dtype) * cross
