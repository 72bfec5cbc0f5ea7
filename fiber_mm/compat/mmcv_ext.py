"""The operators of ``mmcv._ext`` on torchvision; this file is loaded under that name.

Signatures and conventions (results written into given tensors, gradients added to them) are
those by which the Python side of mmcv 2.x calls its compiled extension. Every name that is not
defined here exists all the same, since ``mmcv.ops`` asks for all of them when it is imported;
calling it raises an error that names the operator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import numpy as np
import torch
import torchvision
from torch import Tensor

_TINY = torch.finfo(torch.float32).tiny


def __getattr__(name: str) -> Callable[..., NoReturn]:
    if name.startswith('__'):
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

    def refuse(*args: object, **kwargs: object) -> NoReturn:
        raise NotImplementedError(
            f'The operator {name!r} of mmcv was called, but this mmcv has no compiled operators '
            'and fiber_mm has no stand-in for this one. Install an mmcv with operators; where '
            'torch and a C++ compiler are installed, this builds one: "pip install '
            '--no-build-isolation --no-cache-dir --no-deps --force-reinstall onedl-mmcv".'
        )

    refuse.__name__ = refuse.__qualname__ = name
    globals()[name] = refuse
    return refuse


def get_compiler_version() -> str:
    """For environment reports."""
    return 'not compiled (operators by fiber_mm on torchvision)'


def get_compiling_cuda_version() -> str:
    """For environment reports."""
    return 'not available'


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int = 0) -> Tensor:
    """Indices of the boxes that stay, best first.

    Args:
        boxes: (N, 4) xyxy.
        scores: (N,).
        iou_threshold: A box goes if its overlap with a better one is above this.
        offset: 0, or 1 where corners are inclusive, so that a side is x2 - x1 + 1.

    Returns:
        (K,) int64.
    """
    if offset == 0:
        # mmcv holds the threshold as float32, like the overlaps that it is compared with; in
        # double precision 0.6 is below the float32 overlap of 6 to 10, which must stay.
        return torchvision.ops.nms(boxes.float(), scores.float(), float(np.float32(iou_threshold)))
    # x2 + 1 is not exact in float32 once batched_nms has shifted the boxes class by class.
    grown = boxes.double()
    grown = torch.cat([grown[:, :2], grown[:, 2:] + offset], dim=1)
    return torchvision.ops.nms(grown, scores.double(), iou_threshold)


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Focal loss of each class (Lin et al. 2017, equation 5), written into ``output``.

    Args:
        input: (N, C) logits.
        target: (N,) int64 in [0, C]; C is background.
        weight: (C,) of the classes, or empty.
        output: (N, C).
        gamma: Exponent of the modulating factor.
        alpha: Weight of positives.
    """
    probs, is_target, weights = _sigmoid_focal_parts(input, target, weight)
    positive = (1 - probs).pow(gamma) * probs.clamp_min(_TINY).log()
    negative = probs.pow(gamma) * (1 - probs).clamp_min(_TINY).log()
    output.copy_(torch.where(is_target, -alpha * positive, -(1 - alpha) * negative) * weights)


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Derivative of ``sigmoid_focal_loss_forward``, written into ``grad_input`` (N, C)."""
    probs, is_target, weights = _sigmoid_focal_parts(input, target, weight)
    log_p, log_q = probs.clamp_min(_TINY).log(), (1 - probs).clamp_min(_TINY).log()
    positive = (1 - probs).pow(gamma) * (1 - probs - gamma * probs * log_p)
    negative = probs.pow(gamma) * (gamma * (1 - probs) * log_q - probs)
    grad_input.copy_(torch.where(is_target, -alpha * positive, -(1 - alpha) * negative) * weights)


def _sigmoid_focal_parts(
    input: Tensor, target: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor | float]:
    classes = torch.arange(input.size(1), device=input.device)
    is_target = target[:, None] == classes
    if weight.numel() == 0:
        return input.float().sigmoid(), is_target, 1.0
    # The compiled operator reads past the end for background; 1 is what a caller means.
    weights = torch.cat([weight.float(), weight.new_ones(1, dtype=torch.float32)])[target]
    return input.float().sigmoid(), is_target, weights[:, None]


def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Focal loss of the target class, written into ``output``.

    Args:
        input: (N, C) probabilities (mmcv has taken the softmax before).
        target: (N,) int64; negative ones are ignored.
        weight: (C,) of the classes, or empty.
        output: (N,).
        gamma: Exponent of the modulating factor.
        alpha: Factor on all.
    """
    prob, valid, weights = _softmax_focal_parts(input, target, weight)
    loss = -alpha * (1 - prob).pow(gamma) * prob.clamp_min(_TINY).log()
    output.copy_(torch.where(valid, loss * weights, 0.0))


def softmax_focal_loss_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    buff: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Derivative of ``softmax_focal_loss_forward`` by the logits, into ``grad_input`` (N, C)."""
    prob, valid, weights = _softmax_focal_parts(input, target, weight)
    log_p = prob.clamp_min(_TINY).log()
    slope = -alpha * ((1 - prob).pow(gamma) - gamma * (1 - prob).pow(gamma - 1) * prob * log_p)
    buff.copy_(torch.where(valid, slope * weights, 0.0))
    classes = torch.arange(input.size(1), device=input.device)
    grad_input.copy_(buff[:, None] * ((target[:, None] == classes).to(input.dtype) - input))


def _softmax_focal_parts(
    input: Tensor, target: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor | float]:
    label = target.clamp_min(0)
    prob = input.float().gather(1, label[:, None])[:, 0]
    return prob, target >= 0, weight.float()[label] if weight.numel() else 1.0


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """RoI align (He et al. 2017) with average pooling, written into ``output``.

    Args:
        input: (B, C, H, W).
        rois: (N, 5), the index of the image and xyxy.
        output: (N, C, aligned_height, aligned_width).
        argmax_y: Unused; mmcv's maximum pooling.
        argmax_x: Unused.
        aligned_height: Rows of a result.
        aligned_width: Columns of a result.
        spatial_scale: Factor from box coordinates to map coordinates.
        sampling_ratio: Samples per bin and axis; 0 chooses by size.
        pool_mode: 1 average, 0 maximum.
        aligned: Whether to shift by half a pixel.

    Raises:
        NotImplementedError: For maximum pooling.
    """
    if pool_mode != 1:
        raise NotImplementedError(
            "The operator 'roi_align' was called with pool_mode='max', but this mmcv has no "
            "compiled operators and fiber_mm's stand-in only averages. Use pool_mode='avg', or "
            'install an mmcv with operators.'
        )
    size = (aligned_height, aligned_width)
    output.copy_(
        torchvision.ops.roi_align(
            input.float(), rois.float(), size, spatial_scale, sampling_ratio, aligned
        )
    )


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Derivative of ``roi_align_forward`` by the map, added to ``grad_input``."""
    size = (aligned_height, aligned_width)
    with torch.enable_grad():
        # Linear in the map, so its derivative is the same anywhere.
        maps = torch.zeros_like(grad_input, dtype=torch.float32, requires_grad=True)
        pooled = torchvision.ops.roi_align(
            maps, rois.float(), size, spatial_scale, sampling_ratio, aligned
        )
    (grad,) = torch.autograd.grad(pooled, maps, grad_output.float())
    grad_input.add_(grad)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    with_bias: bool,
    **geometry: int,
) -> None:
    """Modulated deformable convolution (Zhu et al. 2019), written into ``output``.

    Args:
        input: (B, C, H, W).
        weight: (O, C / group, kernel_h, kernel_w).
        bias: (O,), read only if ``with_bias``.
        ones: Unused work space.
        offset: (B, 2 * deformable_group * kernel_h * kernel_w, h, w), y before x.
        mask: (B, deformable_group * kernel_h * kernel_w, h, w).
        output: (B, O, out_h, out_w). Like the compiled operator, which does not compare the
            sizes, this one reads the first numbers of each sample where the maps of ``offset``
            and ``mask`` are larger than that (dynamic heads rely on it).
        columns: Unused work space.
        with_bias: Whether to add ``bias``.
        **geometry: kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h,
            dilation_w, group, deformable_group.

    Raises:
        ValueError: If ``offset`` or ``mask`` holds too few numbers.
    """
    output.copy_(
        _deform_conv(
            *(t.float() for t in (input, offset, mask, weight)),
            bias.float() if with_bias else None,
            output.shape[-2:],
            _geometry(geometry, ('stride', 'pad', 'dilation')),
            geometry['deformable_group'],
        )
    )


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    with_bias: bool,
    **geometry: int,
) -> None:
    """Derivatives of ``modulated_deform_conv_forward``, added to the ``grad_`` tensors."""
    with torch.enable_grad():
        leaves = [t.detach().float().requires_grad_() for t in (input, offset, mask, weight)]
        output = _deform_conv(
            *leaves,
            None,
            grad_output.shape[-2:],
            _geometry(geometry, ('stride', 'pad', 'dilation')),
            geometry['deformable_group'],
        )
    grads = torch.autograd.grad(output, leaves, grad_output.float())
    for target, grad in zip((grad_input, grad_offset, grad_mask, grad_weight), grads, strict=True):
        target.add_(grad)
    if with_bias:
        grad_bias.add_(grad_output.float().sum(dim=(0, 2, 3)))


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    **geometry: int,
) -> None:
    """Deformable convolution without modulation (Dai et al. 2017), written into ``output``.

    Shapes as in ``modulated_deform_conv_forward``; ``geometry`` holds kH, kW, dH, dW, padH,
    padW, dilationH, dilationW, group, deformable_group, im2col_step.
    """
    output.copy_(
        _deform_conv(
            input.float(),
            offset.float(),
            None,
            weight.float(),
            None,
            output.shape[-2:],
            _geometry(geometry, ('d', 'pad', 'dilation')),
            geometry['deformable_group'],
        )
    )


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    columns: Tensor,
    **geometry: int,
) -> None:
    """Derivatives of ``deform_conv_forward`` by input and offset, added to the tensors."""
    grads = _deform_conv_grads(input, offset, weight, grad_output, geometry, wanted=(0, 1))
    grad_input.add_(grads[0])
    grad_offset.add_(grads[1])


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    columns: Tensor,
    ones: Tensor,
    scale: float = 1,
    **geometry: int,
) -> None:
    """Derivative of ``deform_conv_forward`` by the weight, times ``scale``, added to it."""
    # Linear in the weight, so its derivative is the same anywhere.
    (grad,) = _deform_conv_grads(
        input, offset, torch.zeros_like(grad_weight), grad_output, geometry, wanted=(2,)
    )
    grad_weight.add_(grad, alpha=scale)


def _deform_conv_grads(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    grad_output: Tensor,
    geometry: dict[str, int],
    wanted: tuple[int, ...],
) -> tuple[Tensor, ...]:
    leaves = [t.detach().float() for t in (input, offset, weight)]
    for index in wanted:
        leaves[index].requires_grad_()
    with torch.enable_grad():
        output = _deform_conv(
            leaves[0],
            leaves[1],
            None,
            leaves[2],
            None,
            grad_output.shape[-2:],
            _geometry(geometry, ('d', 'pad', 'dilation')),
            geometry['deformable_group'],
        )
    return torch.autograd.grad(output, [leaves[i] for i in wanted], grad_output.float())


def _geometry(values: dict[str, int], names: tuple[str, ...]) -> dict[str, tuple[int, int]]:
    """Stride, padding and dilation out of mmcv's arguments ('stride_h' or 'dH')."""
    separator = '_' if 'kernel_h' in values else ''
    suffixes = ('h', 'w') if separator else ('H', 'W')
    pairs = (tuple(values[f'{name}{separator}{s}'] for s in suffixes) for name in names)
    return dict(zip(('stride', 'padding', 'dilation'), pairs, strict=True))


def _deform_conv(
    input: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    out_size: tuple[int, int],
    geometry: dict[str, tuple[int, int]],
    deform_groups: int,
) -> Tensor:
    channels = deform_groups * weight.size(2) * weight.size(3)
    return torchvision.ops.deform_conv2d(
        input,
        _first_numbers(offset, 2 * channels, out_size, 'offset'),
        weight,
        bias,
        mask=None if mask is None else _first_numbers(mask, channels, out_size, 'mask'),
        **geometry,
    )


def _first_numbers(maps: Tensor, channels: int, size: tuple[int, int], name: str) -> Tensor:
    wanted = (channels, *size)
    if tuple(maps.shape[1:]) == wanted:
        return maps
    count = channels * size[0] * size[1]
    flat = maps.reshape(maps.size(0), -1)
    if flat.size(1) < count:
        raise ValueError(
            f'deformable convolution: {name} is {tuple(maps.shape)}, wanted at least '
            f'{count} numbers a sample, the size of {wanted}; check the channels of the layer '
            f'that predicts the {name}'
        )
    return flat[:, :count].reshape(maps.size(0), *wanted)
