"""Deformable convolution against torchvision's kernel and against loops."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses import FakeTensorMode

from fiber_mm.core import deform_conv
from fiber_mm.core.deform_conv import DeformConv2d, borrow_offsets, deform_conv2d, output_size


def inputs(stride=1, size=(9, 11), channels=6, out=5, dtype=torch.double, reach=3.0, batch=2):
    """Random arguments; offsets reach beyond the map."""
    h, w = output_size(size, stride)
    return [
        torch.randn(batch, channels, *size, dtype=dtype).requires_grad_(),
        (reach * torch.randn(batch, 18, h, w, dtype=dtype)).requires_grad_(),
        torch.rand(batch, 9, h, w, dtype=dtype).requires_grad_(),
        torch.randn(out, channels, 3, 3, dtype=dtype).requires_grad_(),
        torch.randn(out, dtype=dtype).requires_grad_(),
    ]


def sample(image, y, x):
    """One bilinear sample of an (H, W) map, zeros outside, written out."""
    height, width = image.shape
    total = 0.0
    for row in (math.floor(y), math.floor(y) + 1):
        for col in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < height and 0 <= col < width:
                total += (1 - abs(y - row)) * (1 - abs(x - col)) * image[row, col].item()
    return total


@pytest.mark.parametrize('stride', [1, 2])
def test_equals_torchvision_with_gradients(stride):
    args = inputs(stride)
    ours = deform_conv2d(*args, stride, backend='embedding_bag')
    theirs = deform_conv2d(*args, stride, backend='torchvision')
    torch.testing.assert_close(ours, theirs)
    grad = torch.randn_like(ours)
    for a, b in zip(torch.autograd.grad(ours, args, grad), torch.autograd.grad(theirs, args, grad)):
        torch.testing.assert_close(a, b)


def test_equals_loops():
    x, offset, mask, weight, bias = (t.detach() for t in inputs(2, (5, 4), 2, 3, batch=1))
    out = deform_conv2d(x, offset, mask, weight, bias, 2)
    for i in range(out.shape[2]):
        for j in range(out.shape[3]):
            total = bias.clone()
            for k in range(9):
                y = 2 * i - 1 + k // 3 + offset[0, 2 * k, i, j].item()
                z = 2 * j - 1 + k % 3 + offset[0, 2 * k + 1, i, j].item()
                for c in range(2):
                    value = mask[0, k, i, j] * sample(x[0, c], y, z)
                    total += weight[:, c, k // 3, k % 3] * value
            torch.testing.assert_close(out[0, :, i, j], total)


def test_gradcheck():
    args = inputs(2, (3, 4), 1, 2, reach=1.0, batch=1)
    assert torch.autograd.gradcheck(lambda *a: deform_conv2d(*a, 2, backend='embedding_bag'), args)


def test_no_offset_is_a_plain_convolution():
    x, offset, mask, weight, bias = inputs()
    out = deform_conv2d(x, offset * 0, torch.ones_like(mask), weight, bias)
    torch.testing.assert_close(out, F.conv2d(x, weight, bias, padding=1))


def test_several_passes_change_nothing(monkeypatch):
    args = inputs()

    def run():
        out = deform_conv2d(*args, backend='embedding_bag')
        return [out, *torch.autograd.grad(out.square().sum(), args)]

    whole = run()
    # Seven output positions a pass.
    monkeypatch.setattr(deform_conv, 'CACHE_LIMIT', 9 * 6 * 8 * 7)
    monkeypatch.setattr(deform_conv, 'MEMORY_LIMIT', 9 * 6 * 8 * 7)
    assert len(deform_conv._passes(2 * 99, 9 * 6 * 8, 9 * 6 * 8 * 7)) == 29
    for a, b in zip(run(), whole):
        torch.testing.assert_close(a, b)


def test_memory_format_changes_nothing():
    x, *rest = inputs()
    last = x.detach().contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(deform_conv2d(last, *rest), deform_conv2d(x, *rest))


@pytest.mark.parametrize('position', [1e30, -1e30, float('inf')])
def test_far_offsets_read_nothing(position):
    x, offset, mask, weight, bias = inputs()
    out = deform_conv2d(x, torch.full_like(offset, position), mask, weight, bias)
    torch.testing.assert_close(out, bias[:, None, None].expand_as(out))


def test_nan_offset_gives_nan():
    x, offset, mask, weight, bias = (t.detach() for t in inputs())
    offset[1, 0, 2, 3] = float('nan')
    out = deform_conv2d(x, offset, mask, weight, bias)
    assert out[1, :, 2, 3].isnan().all()
    assert out.isnan().sum() == weight.shape[0]


@pytest.mark.parametrize('size', [(1, 1), (1, 4), (3, 1), (2, 2)])
@pytest.mark.parametrize('whole', [False, True])
def test_tiny_maps_and_whole_offsets(size, whole):
    """At whole offsets the derivative is the one to the right, as in the released kernel."""
    args = inputs(size=size)
    if whole:
        args[1] = args[1].detach().round().requires_grad_()
    outs = [deform_conv2d(*args, backend=b) for b in ('embedding_bag', 'torchvision')]
    torch.testing.assert_close(*outs)
    grads = [torch.autograd.grad(o.square().sum(), args) for o in outs]
    for a, b in zip(*grads):
        torch.testing.assert_close(a, b)


def test_only_what_needs_a_gradient_gets_one():
    x, offset, mask, weight, _ = inputs()
    out = deform_conv2d(x.detach(), offset, mask.detach(), weight, None)
    out.sum().backward()
    assert x.grad is None
    assert mask.grad is None
    assert offset.grad.abs().sum() > 0
    assert weight.grad.abs().sum() > 0


def test_bf16_autocast():
    args = inputs(dtype=torch.float32, channels=32, reach=1.0)
    exact = deform_conv2d(*args)
    with torch.autocast('cpu', torch.bfloat16):
        near = deform_conv2d(*args)
        wide = deform_conv2d(*args, backend='torchvision')
    assert near.dtype is wide.dtype is torch.bfloat16
    for out in (near, wide):
        assert (out - exact).square().mean().sqrt() < 1e-2 * exact.std()
    near.float().square().sum().backward()
    assert all(a.grad.dtype is torch.float32 and a.grad.isfinite().all() for a in args)


def test_borrowed_offsets_are_read_from_memory():
    offset, mask = torch.randn(2, 18, 5, 7), torch.rand(2, 9, 5, 7)
    got_offset, got_mask = borrow_offsets(offset, mask, (3, 4))
    for b in range(2):
        numbers, masks = offset[b].flatten().tolist(), mask[b].flatten().tolist()
        assert got_offset[b].flatten().tolist() == numbers[: 18 * 12]
        assert got_mask[b].flatten().tolist() == masks[: 9 * 12]
    # The layout in memory must not matter.
    last = offset.contiguous(memory_format=torch.channels_last)
    assert torch.equal(borrow_offsets(last, mask, (3, 4))[0], got_offset)
    with pytest.raises(ValueError, match='fine to coarse'):
        borrow_offsets(offset, mask, (6, 6))


def test_wrong_shapes_are_named():
    x, offset, mask, weight, bias = inputs()
    with pytest.raises(ValueError, match=r'\(2, 18, 5, 6\)'):
        deform_conv2d(x, offset, mask, weight, bias, stride=2)
    with pytest.raises(ValueError, match='must have the shapes'):
        deform_conv2d(x[:, :5], offset, mask, weight, bias)
    with pytest.raises(ValueError, match='im2col'):
        deform_conv2d(x, offset, mask, weight, bias, backend='im2col')


class _Chosen(Exception):
    pass


def test_switch(monkeypatch):
    args = inputs()
    expected = deform_conv2d(*args, backend='torchvision')

    def refuse(*_):
        raise _Chosen

    monkeypatch.setattr(deform_conv._BagConv, 'apply', refuse)
    with pytest.raises(_Chosen):
        deform_conv2d(*args)
    monkeypatch.setenv('FIBER_DEFORM_BACKEND', 'torchvision')
    assert torch.equal(deform_conv2d(*args), expected)
    # An explicit choice is stronger than the environment.
    with pytest.raises(_Chosen):
        deform_conv2d(*args, backend='embedding_bag')
    monkeypatch.setenv('FIBER_DEFORM_BACKEND', 'fastest')
    with pytest.raises(ValueError, match='fastest'):
        deform_conv2d(*args)


@pytest.mark.parametrize('backend', ['auto', 'embedding_bag'])
def test_cuda_needs_nothing_of_the_cpu(backend):
    """Fake tensors refuse operations between devices, and reading values."""
    with FakeTensorMode(), torch.device('cuda'):
        layer = DeformConv2d(6, 4, 2)
        out = layer(
            torch.randn(2, 6, 9, 11), torch.randn(2, 18, 5, 6), torch.rand(2, 9, 5, 6), backend
        )
        assert out.shape == (2, 4, 5, 6)
        assert out.device.type == 'cuda'


def test_initial_values():
    layer = DeformConv2d(16, 32)
    bound = 1 / math.sqrt(16 * 9)
    assert 0.9 * bound < layer.weight.abs().max() <= bound
    assert not layer.bias.any()
