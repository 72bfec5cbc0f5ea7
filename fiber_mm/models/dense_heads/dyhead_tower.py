"""Tower of dynamic convolutions (Dai et al., Dynamic Head) of the detection head.

Each block mixes every pyramid level with its two neighbours by deformable convolutions, weighs
the three by a scalar attention, and ends in a ReLU whose slopes depend on the input. Parameter
names are those of the released checkpoints (``DyConv.K.conv``, ``AttnConv.1``, ``relu.fc``,
``offset``), and so are the details that the weights were trained with: the coarser neighbour is
read with the finer level's offsets (:func:`~fiber_mm.core.deform_conv.borrow_offsets`), and
enlarged bilinearly with aligned corners.
"""

from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fiber_mm.core.deform_conv import DeformConv2d, borrow_offsets
from fiber_mm.core.linear import wants_fp32
from fiber_mm.core.local_init import near_identity_


class DeformConvNorm(nn.Module):
    """Deformable convolution and GroupNorm (``bn`` in the checkpoints).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Stride of the convolution.
        num_groups: Groups of the normalisation.
        fp32_training: Compute the convolution in fp32 in training, also under autocast.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        num_groups: int,
        fp32_training: bool,
    ) -> None:
        super().__init__()
        self.fp32_training = fp32_training
        self.conv = DeformConv2d(in_channels, out_channels, stride)
        self.bn = nn.GroupNorm(num_groups, out_channels)

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        """(B, C, H, W) with its (B, 18, h, w) offsets and (B, 9, h, w) masks -> (B, O, h, w)."""
        if self.training and self.fp32_training:
            with torch.autocast(x.device.type, enabled=False):
                x = self.conv(x.to(self.conv.weight.dtype), offset, mask)
        else:
            x = self.conv(x, offset, mask)
        return self.bn(x)


class DyReLU(nn.Module):
    """Maximum of two lines whose slopes and intercepts depend on the pooled input.

    Args:
        channels: Channels of the map.
        reduction: Divides the channels of the hidden layer.
    """

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(channels, channels // reduction),
            nn.ReLU(),
            nn.Linear(channels // reduction, 4 * channels),
            nn.Hardsigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        a1, b1, a2, b2 = self.fc(x.mean((2, 3)))[..., None, None].to(x.dtype).chunk(4, dim=1)
        return torch.maximum(
            torch.addcmul(b1 - 0.5, x, 2 * a1), torch.addcmul(b2 - 0.5, x, 2 * a2 - 1)
        )


class DyConvBlock(nn.Module):
    """One block over all pyramid levels.

    Args:
        in_channels: Channels of the incoming maps.
        out_channels: Channels of the outgoing maps.
        num_groups: Groups of the normalisation.
        fp32_training: See :class:`DeformConvNorm`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_groups: int = 16,
        fp32_training: bool = True,
    ) -> None:
        super().__init__()
        # Applied to the next coarser level, the level itself, the next finer one.
        self.DyConv = nn.ModuleList(
            DeformConvNorm(in_channels, out_channels, stride, num_groups, fp32_training)
            for stride in (1, 1, 2)
        )
        self.AttnConv = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(out_channels, 1, kernel_size=1), nn.ReLU()
        )
        self.relu = DyReLU(out_channels)
        self.offset = nn.Conv2d(in_channels, 27, kernel_size=3, padding=1)
        nn.init.normal_(self.AttnConv[1].weight, 0, 0.01)
        nn.init.zeros_(self.AttnConv[1].bias)

    @torch.no_grad()
    def start_near_identity(self) -> None:
        """No offsets, each level's own map passes its convolution, its neighbours wait.

        The three views are averaged after a factor of 1/2, so a scale of 3 on the level's own
        view hands it on at about its size.
        """
        self.offset.weight.zero_()
        self.offset.bias.zero_()
        near_identity_(self.DyConv[1].conv.weight)
        for view, scale in zip(self.DyConv, (0.0, 3.0, 0.0)):
            view.bn.weight.fill_(scale)

    def forward(self, feats: Sequence[Tensor]) -> list[Tensor]:
        """Maps of all levels, fine to coarse, (B, C, H_l, W_l) each -> the same with O channels."""
        out = []
        for level, feat in enumerate(feats):
            offset, mask = self._offset(feat).split([18, 9], dim=1)
            mask = mask.sigmoid()
            views = [self.DyConv[1](feat, offset, mask)]
            if level > 0:
                views.append(self.DyConv[2](feats[level - 1], offset, mask))
            if level < len(feats) - 1:
                coarser = feats[level + 1]
                view = self.DyConv[0](coarser, *borrow_offsets(offset, mask, coarser.shape[2:]))
                views.append(
                    F.interpolate(view, feat.shape[2:], mode='bilinear', align_corners=True)
                )
            out.append(self.relu(self._mix(views)))
        return out

    def _offset(self, feat: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 27, H, W), in fp32 at least: positions need more digits than bf16."""
        if wants_fp32(feat.device):
            with torch.autocast(feat.device.type, enabled=False):
                return self.offset(feat.float())
        numbers = self.offset(feat)
        return numbers.to(torch.promote_types(numbers.dtype, torch.float32))

    def _mix(self, views: Sequence[Tensor]) -> Tensor:
        """Mean of (B, C, H, W) maps, each weighed by its scalar attention."""
        mixed = None
        for view in views:
            weight = F.hardsigmoid(self.AttnConv(view)).to(view.dtype) / len(views)
            mixed = view * weight if mixed is None else torch.addcmul(mixed, view, weight)
        return mixed


class DyHeadTower(nn.ModuleList):
    """Stack of :class:`DyConvBlock`.

    Args:
        in_channels: Channels of the pyramid.
        feat_channels: Channels of all blocks' outputs.
        num_blocks: Number of blocks.
        num_groups: Groups of the normalisations; they must divide ``feat_channels``.
        fp32_training: Compute deformable convolutions in fp32 in training, also under autocast,
            as released. In inference they follow autocast where the implementation can.
        with_checkpoint: Recompute each block in the backward instead of storing activations.
        near_identity: Start with offsets of zero and with each level's own map nearly as it
            is; what the neighbours add is learned. What the pyramid tells then reaches the
            projections, which random convolutions hide: for training from scratch in minutes.
    """

    def __init__(
        self,
        in_channels: int = 256,
        feat_channels: int = 256,
        num_blocks: int = 6,
        num_groups: int = 16,
        fp32_training: bool = True,
        with_checkpoint: bool = False,
        near_identity: bool = False,
    ) -> None:
        super().__init__(
            DyConvBlock(
                feat_channels if i else in_channels, feat_channels, num_groups, fp32_training
            )
            for i in range(num_blocks)
        )
        self.with_checkpoint = with_checkpoint
        if near_identity:
            for block in self:
                block.start_near_identity()

    def forward(self, feats: Sequence[Tensor]) -> list[Tensor]:
        """Maps of all levels, fine to coarse -> refined maps of the same sizes."""
        feats = [feat.contiguous(memory_format=torch.channels_last) for feat in feats]
        for block in self:
            if self.with_checkpoint and self.training:
                feats = checkpoint(block, feats, use_reentrant=False)
            else:
                feats = block(feats)
        return feats
