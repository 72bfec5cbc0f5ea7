"""Token focal loss against its formula."""

import math

import pytest
import torch

from fiber_mm.models.losses import token_focal_loss


def slow(logits, targets, mask, alpha, gamma):
    total = 0.0
    for b in range(logits.shape[0]):
        for a in range(logits.shape[1]):
            for t in range(logits.shape[2]):
                if mask[b, t]:
                    p = 1 / (1 + math.exp(-logits[b, a, t].item()))
                    if targets[b, a, t]:
                        total -= alpha * (1 - p) ** gamma * math.log(p)
                    else:
                        total -= (1 - alpha) * p**gamma * math.log(1 - p)
    return total


@pytest.mark.parametrize(('alpha', 'gamma'), [(0.25, 2.0), (0.6, 1.5)])
def test_formula(alpha, gamma):
    logits = 3 * torch.randn(2, 5, 7)
    targets = torch.rand(2, 5, 7) > 0.7
    mask = torch.rand(2, 7) > 0.4
    loss = token_focal_loss(logits, targets, mask, alpha, gamma)
    assert loss.item() == pytest.approx(slow(logits, targets, mask, alpha, gamma), rel=1e-5)
    everything = token_focal_loss(logits, targets, None, alpha, gamma)
    assert everything.item() == pytest.approx(
        slow(logits, targets, torch.ones_like(mask), alpha, gamma), rel=1e-5
    )


def test_gradient():
    logits = torch.randn(1, 3, 4, dtype=torch.double, requires_grad=True)
    targets, mask = torch.rand(1, 3, 4) > 0.5, torch.tensor([[True, True, True, False]])
    step = 1e-2
    grad = torch.autograd.grad(token_focal_loss(logits, targets, mask), logits)[0]
    for index in ((0, 0, 0), (0, 1, 2), (0, 2, 1)):
        moved = torch.zeros_like(logits)
        moved[index] = step
        up, down = (slow(logits + s * moved, targets, mask, 0.25, 2.0) for s in (1, -1))
        assert grad[index].item() == pytest.approx((up - down) / (2 * step), rel=1e-3, abs=1e-6)
    assert not grad[..., 3].any()


def test_extreme_logits_and_bf16():
    logits = torch.tensor([[[50000.0, -50000.0]]], dtype=torch.bfloat16, requires_grad=True)
    loss = token_focal_loss(logits, torch.tensor([[[False, True]]]))
    loss.backward()
    assert loss.dtype is torch.float32
    # Bf16 rounds 50000 to 49920; both pairs are as wrong as can be.
    assert loss.item() == pytest.approx((0.75 + 0.25) * 49920, rel=1e-4)
    assert logits.grad.flatten().tolist() == pytest.approx([0.75, -0.25])
