"""The tower against the description of its blocks, written with torchvision's operator."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import deform_conv2d

from fiber_mm.core.local_init import KERNEL_NOISE
from fiber_mm.models.dense_heads.dyhead_tower import DyConvBlock, DyHeadTower

SIZES = ((9, 12), (5, 6), (3, 3))


def maps(batch=2, channels=8, dtype=torch.float32):
    return [torch.randn(batch, channels, h, w, dtype=dtype) for h, w in SIZES]


def shaken(module):
    """Norms, biases and the attention away from their initial values."""
    for param in module.parameters():
        if param.dim() == 1 or param.shape[0] == 1:
            nn.init.normal_(param, 0.5, 0.5)
    return module


def slow_block(block, feats):
    def conv(k, x, offset, mask):
        layer = block.DyConv[k]
        x = deform_conv2d(
            x, offset, layer.conv.weight, layer.conv.bias, (1, 1, 2)[k], padding=1, mask=mask
        )
        return F.group_norm(x, layer.bn.num_groups, layer.bn.weight, layer.bn.bias)

    out = []
    for level, feat in enumerate(feats):
        numbers = block.offset(feat)
        offset, mask = numbers[:, :18].contiguous(), numbers[:, 18:].sigmoid()
        views = [conv(1, feat, offset, mask)]
        if level > 0:
            views.append(conv(2, feats[level - 1], offset, mask))
        if level + 1 < len(feats):
            h, w = feats[level + 1].shape[2:]
            read = torch.stack([o.flatten()[: 18 * h * w].view(18, h, w) for o in offset])
            weigh = torch.stack([m.flatten()[: 9 * h * w].view(9, h, w) for m in mask])
            view = conv(0, feats[level + 1], read, weigh)
            views.append(F.interpolate(view, feat.shape[2:], mode='bilinear', align_corners=True))
        weights = [F.relu6(F.relu(block.AttnConv[1](v.mean((2, 3), True))) + 3) / 6 for v in views]
        mean = sum(v * w for v, w in zip(views, weights)) / len(views)
        a1, b1, a2, b2 = (
            F.relu6(block.relu.fc[2](F.relu(block.relu.fc[0](mean.mean((2, 3))))) + 3) / 6
        ).split(mean.shape[1], dim=1)
        lines = [
            mean * slope[..., None, None] + shift[..., None, None]
            for slope, shift in (((a1 - 0.5) * 2 + 1, b1 - 0.5), ((a2 - 0.5) * 2, b2 - 0.5))
        ]
        out.append(torch.maximum(*lines))
    return out


def test_block_equals_its_description_with_gradients():
    block = shaken(DyConvBlock(8, 8, num_groups=2)).double()
    feats = maps(dtype=torch.double)
    params = list(block.parameters())
    ours, slow = block(feats), slow_block(block, feats)
    # torch's hardsigmoid multiplies by a single-precision 1/6 in double precision, too.
    near = dict(rtol=1e-5, atol=1e-6)
    for a, b in zip(ours, slow):
        torch.testing.assert_close(a, b, **near)
    grads = [torch.autograd.grad(sum(x.square().sum() for x in o), params) for o in (ours, slow)]
    for a, b in zip(*grads):
        torch.testing.assert_close(a, b, **near)


def test_in_and_out_widths_may_differ():
    tower = DyHeadTower(8, 12, num_blocks=2, num_groups=3)
    assert [tuple(m.shape) for m in tower(maps())] == [(2, 12, *size) for size in SIZES]


def test_images_do_not_see_each_other():
    tower = shaken(DyHeadTower(8, 8, 2, 2)).eval()
    feats = maps(3)
    together = tower(feats)
    for i in range(3):
        for alone, both in zip(tower([f[i : i + 1] for f in feats]), together):
            torch.testing.assert_close(alone[0], both[i])


def test_memory_format_changes_nothing():
    tower = shaken(DyHeadTower(8, 8, 1, 2))
    feats = maps()
    last = [f.contiguous(memory_format=torch.channels_last) for f in feats]
    for a, b in zip(tower(feats), tower(last)):
        torch.testing.assert_close(a, b)


def test_checkpointing_changes_nothing():
    feats = maps()
    tower = shaken(DyHeadTower(8, 8, 2, 2)).train()
    grads = []
    for tower.with_checkpoint in (False, True):
        loss = sum(x.square().sum() for x in tower(feats))
        grads.append(torch.autograd.grad(loss, list(tower.parameters())))
    for a, b in zip(*grads):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('training', [True, False])
def test_bf16_autocast(training):
    tower = shaken(DyHeadTower(32, 32, 2, 4)).train(training)
    feats = maps(channels=32)
    exact = tower(feats)
    with torch.autocast('cpu', torch.bfloat16):
        near = tower(feats)
    for a, b in zip(near, exact):
        assert (a - b).square().mean().sqrt() < 4e-2 * b.std()


def test_training_convolves_in_fp32(monkeypatch):
    seen = []
    block = DyConvBlock(8, 8, 2)
    for conv in block.DyConv:
        conv.conv.register_forward_hook(lambda _, args, out: seen.append(out.dtype))
    with torch.autocast('cpu', torch.bfloat16):
        block.train()(maps())
        assert set(seen) == {torch.float32}
        seen.clear()
        block.eval()(maps())
        assert set(seen) == {torch.bfloat16}
        seen.clear()
        relaxed = DyConvBlock(8, 8, 2, fp32_training=False).train()
        relaxed.DyConv[1].conv.register_forward_hook(lambda _, args, out: seen.append(out.dtype))
        relaxed(maps())
        assert set(seen) == {torch.bfloat16}


def test_initial_values():
    block = DyConvBlock(64, 64)
    assert block.AttnConv[1].weight.std().item() == pytest.approx(0.01, rel=0.5)
    assert block.AttnConv[1].bias.item() == 0
    # Not zero, unlike in mmcv: the first offsets are torch's default.
    assert block.offset.weight.abs().max().item() == pytest.approx(1 / (64 * 9) ** 0.5, rel=0.01)
    assert block.offset.bias.abs().sum() > 0


def test_levels_in_wrong_order():
    with pytest.raises(ValueError):
        DyHeadTower(8, 8, 1, 2)(maps()[::-1])


def test_near_identity_starts_with_each_levels_own_map():
    torch.manual_seed(1)
    plain = DyHeadTower(8, 8, 2, 2)
    torch.manual_seed(1)
    near = DyHeadTower(8, 8, 2, 2, near_identity=True)
    for a, b in zip(plain, near):
        assert not b.offset.weight.any()
        assert not b.offset.bias.any()
        difference = b.DyConv[1].conv.weight - KERNEL_NOISE * a.DyConv[1].conv.weight
        wanted = torch.zeros_like(difference)
        wanted[:, :, 1, 1] = torch.eye(8)
        torch.testing.assert_close(difference, wanted)
        # The neighbours are mute at first; the level's own view keeps its size.
        assert [view.bn.weight.unique().tolist() for view in b.DyConv] == [[0.0], [3.0], [0.0]]
        for k in (0, 2):  # the neighbours' convolutions are left alone
            assert torch.equal(a.DyConv[k].conv.weight, b.DyConv[k].conv.weight)
    # With nothing else in the kernel, the convolution halves its input: masks start at 1/2.
    block = near[0]
    with torch.no_grad():
        block.DyConv[1].conv.weight.copy_(wanted)
        feat = maps()[0]
        numbers = block.offset(feat)
        view = block.DyConv[1].conv(feat, numbers[:, :18], numbers[:, 18:].sigmoid())
        bias = block.DyConv[1].conv.bias
    torch.testing.assert_close(view - (0 if bias is None else bias[:, None, None]), feat / 2)
