"""mmdet's FPN with the DropBlock that FIBER trains with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.models.necks import FPN
from torch import Tensor, nn

from fiber_mm.core.linear import wants_fp32
from fiber_mm.core.local_init import near_identity_
from fiber_mm.registry import MODELS

# Factors of the levels, fine to coarse, with FiberFPN(near_identity=True): a coarse level is wider
# and is added to every finer one, so it starts weaker.
FROM_ABOVE = (1.0, 0.35, 0.25)
_INIT = dict(
    type='Kaiming', layer='Conv2d', a=1, distribution='uniform', mode='fan_in',
    nonlinearity='leaky_relu',
)  # fmt: skip


class SharedDropBlock(nn.Module):
    """DropBlock (Ghiasi et al., 2018) with one mask for all channels.

    mmdet's draws a mask per channel and warms up, so it is another regulariser.

    Args:
        drop_prob: Expected share of a map that is dropped.
        block_size: Side of a dropped block.
    Source: ``DropBlock2D`` of the original's detection code.
    """

    def __init__(self, drop_prob: float, block_size: int) -> None:
        super().__init__()
        if not 0 <= drop_prob < 1 or block_size % 2 == 0:
            raise ValueError(
                'drop_prob in [0, 1) and an odd block_size are wanted, '
                f'got {drop_prob} and {block_size}'
            )
        self.drop_prob, self.block_size = drop_prob, block_size

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W), kept cells scaled up to keep the mean."""
        if not self.training or self.drop_prob == 0:
            return x
        rate = self.drop_prob / self.block_size**2
        # In fp32: the number of kept cells is beyond what fp16 can hold.
        seeds = (torch.rand(x.shape[0], 1, *x.shape[2:], device=x.device) < rate).float()
        size = self.block_size
        keep = 1 - F.max_pool2d(seeds, size, stride=1, padding=size // 2)
        return x * (keep * (keep.numel() / keep.sum().clamp(min=1))).to(x.dtype)


@MODELS.register_module()
class FiberFPN(FPN):
    """mmdet's FPN; DropBlock acts before the 3x3 convolutions of all levels but the top one.

    Args:
        drop_block: ``dict(drop_prob=0.3, block_size=3)`` as released, or None.
        near_identity: Start so that each level mostly hands on its own map: what comes from
            above is damped, and 3x3 convolutions begin near the identity. A random pyramid
            drowns the finest level, where small objects are, in the coarser ones: for training
            from scratch in minutes.
        init_cfg: Starting values; None: as the original, uniform with a variance of 1 / fan_in,
            where mmdet's Xavier also counts what goes out.
        **kwargs: for mmdet's ``FPN``.
    """

    def __init__(
        self,
        *args: Any,
        drop_block: dict | None = None,
        near_identity: bool = False,
        init_cfg: dict | list[dict] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, init_cfg=init_cfg or dict(_INIT), **kwargs)
        self.near_identity = near_identity
        if drop_block is not None:
            self.drop_block = SharedDropBlock(**drop_block)
            for conv in self.fpn_convs[: len(self.lateral_convs) - 1]:
                conv.register_forward_pre_hook(self._drop)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Backbone maps (B, C_s, H_s, W_s), fine to coarse -> pyramid of ``out_channels``."""
        if not wants_fp32(inputs[0].device):
            return super().forward(inputs)
        with torch.autocast(inputs[0].device.type, enabled=False):
            return super().forward([x.float() for x in inputs])

    def init_weights(self) -> None:
        """mmdet's; with ``near_identity`` see :meth:`start_near_identity`."""
        if not self.near_identity:
            super().init_weights()
        elif not self.is_init:
            self.start_near_identity()
            self._is_init = True

    @torch.no_grad()
    def start_near_identity(self) -> None:
        """Sets starting values, see ``near_identity``."""
        for level, lateral in enumerate(self.lateral_convs):
            lateral.init_weights()
            lateral.conv.weight *= FROM_ABOVE[min(level, 2)]
        for conv in self.fpn_convs:
            conv.init_weights()
        for conv in self.fpn_convs[: len(self.lateral_convs)]:
            near_identity_(conv.conv.weight)

    def _drop(self, module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (self.drop_block(inputs[0]),)
