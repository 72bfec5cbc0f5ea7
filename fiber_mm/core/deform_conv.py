"""Modulated deformable convolution (Zhu et al., Deformable ConvNets v2), 3x3.

Every output position reads nine input positions, each moved by a learned offset, interpolated
bilinearly and multiplied by a learned mask. Two implementations give the same numbers:

``embedding_bag``
    The four corners of every sampling point are rows of the channels-last map, summed by
    ``F.embedding_bag`` with ``bilinear weight x mask`` as weights; one linear layer over
    ``9 * C`` follows. It runs on any device and in bf16, and its backward recomputes the
    columns, so that training keeps none of them.
``torchvision``
    ``torchvision.ops.deform_conv2d``: a good CUDA kernel, but serial on CPU and fp32 only.

``DeformBackend.AUTO`` takes torchvision on CUDA and embedding_bag everywhere else. On CPU, one
256-channel map of 100 x 132 took 523 ms with torchvision and 140 ms with embedding_bag (forward
and backward 3,522 against 414). ``FIBER_DEFORM_BACKEND`` in the environment overrides it.
"""

import enum
import math
import os
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from fiber_mm.core.linear import linear

KERNEL = 3
POINTS = KERNEL * KERNEL


class DeformBackend(str, enum.Enum):
    """Which implementation :func:`deform_conv2d` runs."""

    AUTO = 'auto'
    EMBEDDING_BAG = 'embedding_bag'
    TORCHVISION = 'torchvision'


# Bytes of columns gathered at once. Forward on CPU: what stays in the cache between the gather
# and the product (68 ms a 256-channel map of 100 x 132 instead of 130). Elsewhere, and in the
# backward, whose scatter runs over the whole map in each pass: what is still a small share of
# the memory.
CACHE_LIMIT = 8 * 2**20
MEMORY_LIMIT = 128 * 2**20


class Axis(NamedTuple):
    """Two neighbouring pixels of every sampling point along one axis, (B, h * w, 9) each."""

    first: Tensor  # lower pixel, as a float; both are inside of the map
    distance: Tensor  # from the lower pixel to the point
    low: Tensor  # weight of the lower pixel
    high: Tensor  # weight of the upper pixel


class Corners(NamedTuple):
    """Four weighted rows of the input for every sampling point."""

    y: Axis
    x: Axis
    index: Tensor  # (B * h * w * 9, 4) int32 rows of the (B * H * W, C) input
    weight: Tensor  # (B * h * w * 9, 4) bilinear weight x mask


def borrow_offsets(offset: Tensor, mask: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Offsets and masks of a finer map as the released kernel reads them for a coarser one.

    FIBER's tower (like GLIP's) runs a convolution on a coarser map with the offsets of the finer
    level. The kernel does not check sizes: it takes the first ``18 * h * w`` and ``9 * h * w``
    numbers of each sample. Released weights are trained with that.

    Args:
        offset: (B, 18, H, W).
        mask: (B, 9, H, W).
        size: (h, w) of the coarser map.

    Returns:
        Views of shape (B, 18, h, w) and (B, 9, h, w).

    Raises:
        ValueError: If the map of ``size`` has more positions than the offsets.
    """
    h, w = size
    batch, _, fine_h, fine_w = offset.shape
    if h * w > fine_h * fine_w:
        raise ValueError(
            f'a map of {h} x {w} cannot read its offsets from one of {fine_h} x '
            f'{fine_w}: the levels must go from fine to coarse'
        )
    offset = offset.reshape(batch, -1)[:, : 2 * POINTS * h * w].reshape(batch, 2 * POINTS, h, w)
    mask = mask.reshape(batch, -1)[:, : POINTS * h * w].reshape(batch, POINTS, h, w)
    return offset, mask


def output_size(size: tuple[int, int], stride: int, padding: int = 1) -> tuple[int, int]:
    """(h, w) of a 3x3 convolution over a map of ``size``."""
    return tuple((side + 2 * padding - KERNEL) // stride + 1 for side in size)


def _axis(position: Tensor, side: int) -> Axis:
    """Neighbours of positions on an axis of ``side`` pixels.

    The weight of pixel i at position p is max(0, 1 - |p - i|). With both neighbours kept inside
    of the map, that formula also holds beyond its border, without any mask.
    """
    first = position.floor().clamp_(0, max(side - 2, 0))
    distance = position - first
    low = distance.abs().neg_().add_(1).clamp_(min=0)
    high = (distance - 1).abs_().neg_().add_(1).clamp_(min=0)
    # A single pixel has no neighbour; the index below is the pixel itself.
    return Axis(first, distance, low, high if side > 1 else high.zero_())


def _axis_slopes(axis: Axis, side: int) -> tuple[Tensor, Tensor]:
    """Derivatives of both weights by the position, taken to the right at the kinks."""
    between = (axis.distance >= 0) & (axis.distance < 1)
    before = (axis.distance < 0) & (axis.distance >= -1)
    after = (axis.distance >= 1) & (axis.distance < 2)
    kind = axis.distance.dtype
    if side == 1:
        return before.to(kind) - between.to(kind), torch.zeros_like(axis.distance)
    return before.to(kind) - between.to(kind), between.to(kind) - after.to(kind)


def sampling_corners(
    offset: Tensor, mask: Tensor, size: tuple[int, int], stride: int, padding: int
) -> Corners:
    """Rows and weights that each sampling point reads.

    Args:
        offset: (B, 18, h, w), channels (dy, dx) of each of the nine points, row by row.
        mask: (B, 9, h, w).
        size: (H, W) of the input map.
        stride: Stride of the convolution.
        padding: Zeros around the input.
    """
    batch, _, h, w = offset.shape
    height, width = size
    device, dtype = offset.device, offset.dtype
    taps = torch.arange(KERNEL, device=device, dtype=dtype) - padding
    top = torch.arange(h, device=device, dtype=dtype) * stride
    left = torch.arange(w, device=device, dtype=dtype) * stride
    origin = torch.empty(h, w, KERNEL, KERNEL, 2, device=device, dtype=dtype)
    origin[..., 0] = top[:, None, None, None] + taps[:, None]
    origin[..., 1] = left[:, None, None] + taps
    points = offset.permute(0, 2, 3, 1).reshape(batch, h * w, POINTS, 2)
    points = points + origin.view(h * w, POINTS, 2)
    y, x = _axis(points[..., 0], height), _axis(points[..., 1], width)

    base = y.first.int().mul_(width).add_(x.first.int())
    if batch > 1:
        images = torch.arange(batch, device=device, dtype=torch.int32) * (height * width)
        base += images[:, None, None]
    right, down = min(width - 1, 1), width if height > 1 else 0
    # NaN offsets give a NaN result instead of an access out of bounds.
    base.clamp_(0, batch * height * width - 1 - right - down)
    index = torch.stack([base, base + right, base + down, base + (down + right)], dim=-1)
    weight = torch.empty(*base.shape, 4, device=device, dtype=dtype)
    mask = mask.permute(0, 2, 3, 1).reshape(base.shape)
    for row, low_or_high in enumerate((y.low, y.high)):
        masked = low_or_high * mask
        torch.mul(masked, x.low, out=weight[..., 2 * row])
        torch.mul(masked, x.high, out=weight[..., 2 * row + 1])
    return Corners(y, x, index.reshape(-1, 4), weight.view(-1, 4))


def corner_gradients(
    corners: Corners, grad: Tensor, mask: Tensor, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Gradients of offset and mask from those of the corners' weights.

    Args:
        corners: Of :func:`sampling_corners`.
        grad: (B * h * w * 9, 4).
        mask: (B, 9, h, w).
        size: (H, W) of the input map.

    Returns:
        (B, 18, h, w) and (B, 9, h, w).
    """
    y, x = corners.y, corners.x
    batch, _, h, w = mask.shape
    g00, g01, g10, g11 = grad.view(*y.low.shape, 4).unbind(-1)
    by_low, by_high = g00 * x.low + g01 * x.high, g10 * x.low + g11 * x.high
    grad_mask = by_low * y.low + by_high * y.high
    low, high = _axis_slopes(y, size[0])
    grad_y = by_low * low + by_high * high
    low, high = _axis_slopes(x, size[1])
    grad_x = (g00 * y.low + g10 * y.high) * low + (g01 * y.low + g11 * y.high) * high
    mask = mask.permute(0, 2, 3, 1).reshape(grad_mask.shape)
    grad_offset = torch.stack([grad_y * mask, grad_x * mask], dim=-1)
    return tuple(g.reshape(batch, h, w, -1).permute(0, 3, 1, 2) for g in (grad_offset, grad_mask))


def _rows_first(weight: Tensor) -> Tensor:
    """(O, C, 3, 3) -> (O, 9 * C), in the order of the columns."""
    return weight.permute(0, 2, 3, 1).reshape(weight.shape[0], -1)


def _passes(total: int, row_bytes: int, limit: int) -> list[slice]:
    """Even slices over ``total`` output positions whose columns stay below ``limit`` bytes."""
    count = max(1, math.ceil(total * row_bytes / limit))
    step = math.ceil(total / count)
    return [slice(start, min(start + step, total)) for start in range(0, total, step)]


def _columns(pixels: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """(n * 9, 4) corners of (P, C) pixels -> (n, 9 * C) interpolated inputs."""
    columns = F.embedding_bag(index, pixels, mode='sum', per_sample_weights=weight)
    return columns.view(-1, POINTS * pixels.shape[1])


def _spread(grad: Tensor, index: Tensor, weight: Tensor, total: int) -> Tensor:
    """Transpose of the gather: (N, C) gradients of columns -> (total, C) of the pixels.

    Sorting the corners by pixel turns the scatter into a second gather, which needs no atomic
    additions and is as fast as the first one.
    """
    pixel, order = index.view(-1).sort()
    pixels = torch.arange(total, device=pixel.device, dtype=pixel.dtype)
    first = torch.searchsorted(pixel, pixels, out_int32=True)
    weight = weight.reshape(-1).index_select(0, order)
    return F.embedding_bag(order.int() >> 2, grad, first, mode='sum', per_sample_weights=weight)


class _BagConv(torch.autograd.Function):
    """Deformable convolution by gathering; the backward gathers again instead of storing."""

    @staticmethod
    def forward(ctx, x, offset, mask, weight, bias, stride, padding):
        ctx.save_for_backward(x, offset, mask, weight)
        ctx.stride, ctx.padding, ctx.has_bias = stride, padding, bias is not None
        batch, channels, height, width = x.shape
        h, w = offset.shape[2:]
        pixels = x.permute(0, 2, 3, 1).reshape(-1, channels)
        corners = sampling_corners(offset, mask, (height, width), stride, padding)
        weights = corners.weight.to(x.dtype)
        flat = _rows_first(weight)
        out = x.new_empty(batch * h * w, weight.shape[0])
        limit = CACHE_LIMIT if x.device.type == 'cpu' else MEMORY_LIMIT
        for part in _passes(len(out), POINTS * channels * x.element_size(), limit):
            points = slice(part.start * POINTS, part.stop * POINTS)
            out[part] = linear(_columns(pixels, corners.index[points], weights[points]), flat, bias)
        return out.view(batch, h, w, -1).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, offset, mask, weight = ctx.saved_tensors
        batch, channels, height, width = x.shape
        pixels = x.permute(0, 2, 3, 1).reshape(-1, channels)
        grad = grad.permute(0, 2, 3, 1).reshape(-1, weight.shape[0])
        flat = _rows_first(weight)
        corners = sampling_corners(offset, mask, (height, width), ctx.stride, ctx.padding)
        grad_flat = torch.zeros_like(flat)
        grad_pixels = torch.zeros_like(pixels)
        grad_corners = torch.empty_like(corners.weight)
        for part in _passes(len(grad), POINTS * channels * x.element_size(), MEMORY_LIMIT):
            points = slice(part.start * POINTS, part.stop * POINTS)
            index, weights = corners.index[points], corners.weight[points].to(x.dtype)
            with torch.enable_grad():
                columns = _columns(pixels, index, weights.requires_grad_())
            grad_flat += grad[part].t() @ columns.detach()
            grad_columns = grad[part] @ flat
            grad_corners[points] = torch.autograd.grad(columns, weights, grad_columns)[0]
            del columns
            grad_columns = grad_columns.view(-1, channels)
            grad_pixels += _spread(grad_columns, index, weights.detach(), len(pixels))
        grad_offset, grad_mask = corner_gradients(corners, grad_corners, mask, (height, width))
        grad_x = grad_pixels.view(batch, height, width, channels).permute(0, 3, 1, 2)
        grad_weight = grad_flat.view(-1, KERNEL, KERNEL, channels).permute(0, 3, 1, 2)
        grad_bias = grad.sum(0) if ctx.has_bias else None
        return grad_x, grad_offset, grad_mask, grad_weight, grad_bias, None, None


def _check(
    x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, stride: int, padding: int
) -> None:
    want = output_size(x.shape[2:], stride, padding)
    seen = tuple(offset.shape), tuple(mask.shape), tuple(weight.shape[1:])
    wanted = ((len(x), 2 * POINTS, *want), (len(x), POINTS, *want), (x.shape[1], KERNEL, KERNEL))
    if seen != wanted:
        raise ValueError(
            f'offset, mask and weight (less its first dimension) of an input {tuple(x.shape)} '
            f'with stride {stride} must have the shapes {wanted}, not {seen}; for offsets of a '
            'finer level see borrow_offsets'
        )


def deform_conv2d(
    x: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int = 1,
    padding: int = 1,
    backend: DeformBackend = DeformBackend.AUTO,
) -> Tensor:
    """Modulated deformable 3x3 convolution.

    Args:
        x: (B, C, H, W); channels-last memory is read without a copy.
        offset: (B, 18, h, w) in pixels: (dy, dx) of the nine points, row by row.
        mask: (B, 9, h, w).
        weight: (O, C, 3, 3).
        bias: (O,) or None.
        stride: Stride of the convolution.
        padding: Zeros around the input.
        backend: Implementation; see the module's text. Under autocast torchvision's kernel
            computes in fp32, embedding_bag in the autocast type (the offsets stay as they are).

    Returns:
        (B, O, h, w), in channels-last memory with embedding_bag.

    Raises:
        ValueError: If shapes do not fit, or the backend is unknown.
    """
    _check(x, offset, mask, weight, stride, padding)
    backend = DeformBackend(backend)
    if backend is DeformBackend.AUTO:
        backend = DeformBackend(os.environ.get('FIBER_DEFORM_BACKEND', 'auto'))
    if backend is DeformBackend.AUTO:
        on_cuda = x.device.type == 'cuda'
        backend = DeformBackend.TORCHVISION if on_cuda else DeformBackend.EMBEDDING_BAG
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    if backend is DeformBackend.TORCHVISION:
        # Imported late: torchvision is needed by this backend only.
        from torchvision.ops import deform_conv2d as kernel

        wide = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(device, enabled=False):
            out = kernel(
                x.to(wide),
                offset.to(wide),
                weight.to(wide),
                None if bias is None else bias.to(wide),
                stride,
                padding,
                mask=mask.to(wide),
            )
        return out.to(dtype)
    # Positions need more digits than bf16 has.
    wide = torch.promote_types(offset.dtype, torch.float32)
    with torch.autocast(device, enabled=False):
        return _BagConv.apply(
            x.to(dtype),
            offset.to(wide),
            mask.to(wide),
            weight.to(dtype),
            None if bias is None else bias.to(dtype),
            stride,
            padding,
        )


class DeformConv2d(nn.Module):
    """Parameters of one deformable 3x3 convolution; offsets and masks come from outside.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Stride of the convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, KERNEL, KERNEL))
        self.bias = nn.Parameter(torch.empty(out_channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initial values of the original: uniform up to 1 / sqrt(fan-in), no bias."""
        bound = 1 / math.sqrt(self.weight[0].numel())
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.zeros_(self.bias)

    def forward(
        self, x: Tensor, offset: Tensor, mask: Tensor, backend: DeformBackend = DeformBackend.AUTO
    ) -> Tensor:
        """See :func:`deform_conv2d`."""
        return deform_conv2d(x, offset, mask, self.weight, self.bias, self.stride, backend=backend)
