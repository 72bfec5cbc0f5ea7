"""Swin blocks against one written out, pixel by pixel."""

import copy
import pickle
from unittest import mock

import pytest
import torch
import torch.nn.functional as F

from fiber_mm.core import SwinCfg, window
from fiber_mm.core import swin as swin_module
from fiber_mm.core.swin import (
    PatchEmbed,
    PatchMerging,
    SwinBlock,
    SwinTransformer,
    WindowAttention,
    WindowPlans,
    drop_path,
)

from .conftest import randomize


def written_out_attention(attn: WindowAttention, windows, mask=None):
    """Softmax per window, head and token, with the bias looked up pair by pair."""
    count, length, dim = windows.shape
    index = window.relative_position_index(attn.size)
    qkv = F.linear(windows, attn.qkv.weight, attn.qkv.bias)
    query, key, value = qkv.view(count, length, 3, attn.heads, -1).unbind(2)
    out = torch.zeros(count, length, attn.heads, dim // attn.heads, dtype=windows.dtype)
    for w in range(count):
        for h in range(attn.heads):
            scores = query[w, :, h] @ key[w, :, h].t() / (dim // attn.heads) ** 0.5
            scores = scores + attn.relative_position_bias_table[index, h]
            if mask is not None:
                scores = scores + mask[w % len(mask)]
            out[w, :, h] = scores.softmax(-1) @ value[w, :, h]
    return F.linear(out.flatten(2), attn.proj.weight, attn.proj.bias)


def written_out_block(block: SwinBlock, x, shift):
    """norm1, zero-pad, roll, attention, roll back, crop, residual, MLP."""
    size = block.attn.size
    batch, height, width, dim = x.shape
    rows, cols = -(-height // size) * size, -(-width // size) * size
    padded = torch.zeros(batch, rows, cols, dim, dtype=x.dtype)
    padded[:, :height, :width] = F.layer_norm(x, (dim,), block.norm1.weight, block.norm1.bias)
    mask = None
    if shift:
        padded = torch.roll(padded, (-shift, -shift), (1, 2))
        mask = window.shift_mask(rows, cols, size, shift, torch.device('cpu'))
    out = written_out_attention(block.attn, window.partition(padded, size), mask)
    out = window.reverse(out, size, rows, cols)
    if shift:
        out = torch.roll(out, (shift, shift), (1, 2))
    x = x + out[:, :height, :width]
    hidden = F.layer_norm(x, (dim,), block.norm2.weight, block.norm2.bias)
    hidden = F.linear(hidden, block.mlp.fc1.weight, block.mlp.fc1.bias)
    hidden = 0.5 * hidden * (1 + torch.erf(hidden / 2**0.5))
    return x + F.linear(hidden, block.mlp.fc2.weight, block.mlp.fc2.bias)


def make_block(shift, size=3, dim=8, single=True) -> SwinBlock:
    block = SwinBlock(WindowAttention(dim, size, 2), dim, shift, 12, 0.0, single)
    randomize(block)
    return block


@pytest.mark.parametrize('shift', [0, 1])
@pytest.mark.parametrize('size', [(6, 9), (5, 7), (3, 3), (2, 2), (1, 4), (3, 10)])
@pytest.mark.parametrize('grad', [False, True])
def test_block_at_any_map_size(size, shift, grad):
    torch.manual_seed(0)
    block, x = make_block(shift).eval(), torch.randn(2, *size, 8)
    with torch.set_grad_enabled(grad):
        out = block(x, WindowPlans())
    torch.testing.assert_close(out, written_out_block(block, x, shift))
    assert out.requires_grad == grad


@pytest.mark.parametrize('shift', [0, 1])
def test_windows_in_pieces(monkeypatch, shift):
    torch.manual_seed(0)
    attn = WindowAttention(8, 3, 2)
    randomize(attn)
    x, plans = torch.randn(2, 7, 8, 8), WindowPlans()
    plan = plans(2, 7, 8, 3, shift, x.device)
    wanted = attn(x, plan)
    assert wanted.requires_grad
    monkeypatch.setattr(swin_module, 'WINDOW_PIECE', 20)  # two windows
    with torch.no_grad():
        torch.testing.assert_close(attn(x, plan), wanted)


def test_the_mlp_in_pieces(monkeypatch):
    torch.manual_seed(0)
    block, x = make_block(0).eval(), torch.randn(2, 5, 7, 8)
    wanted = block.feed_forward(x)
    monkeypatch.setattr(swin_module, 'PIECE', 8)
    with torch.no_grad(), mock.patch.object(block.mlp, 'forward', wraps=block.mlp.forward) as mlp:
        out = block.feed_forward(x)
        assert [len(call.args[0]) for call in mlp.call_args_list] == [9] * 6 + [8] * 2
        turned = block.feed_forward(x.transpose(1, 2))
    torch.testing.assert_close(out, wanted)
    torch.testing.assert_close(turned, wanted.transpose(1, 2))


@pytest.mark.parametrize('part', ['norm2', 'mlp.fc1', 'mlp.fc2'])
def test_a_part_of_the_mlp_can_be_trained_in_eval_mode(part):
    block = make_block(0).eval().requires_grad_(False)
    trained = block.get_submodule(part).requires_grad_(True).weight
    block.feed_forward(torch.randn(2, 5, 7, 8)).sum().backward()
    assert trained.grad.abs().sum() > 0


def test_block_gradients():
    torch.manual_seed(0)
    block = make_block(1).double()
    x = torch.randn(2, 5, 7, 8, dtype=torch.float64, requires_grad=True)
    inputs = (x, *block.parameters())
    out, wanted = block(x, WindowPlans()), written_out_block(block, x, 1)
    grad = torch.randn_like(out)
    for seen, want in zip(
        torch.autograd.grad(out, inputs, grad), torch.autograd.grad(wanted, inputs, grad)
    ):
        # Shift masks are made in float32, which -100 does not care about.
        torch.testing.assert_close(seen, want)


@pytest.mark.parametrize(
    ('height', 'width', 'single', 'wanted'),
    [(6, 6, True, 1), (6, 6, False, 1), (3, 6, True, 1), (3, 6, False, 0), (3, 3, False, 0)],
)
def test_which_maps_shift(height, width, single, wanted):
    assert make_block(1, single=single).shift_for(height, width) == wanted


def test_a_single_window_is_shifted_or_not_by_the_setting():
    torch.manual_seed(0)
    x = torch.randn(1, 3, 3, 8)
    for single, shift in ((True, 1), (False, 0)):
        block = make_block(1, single=single)
        torch.testing.assert_close(block(x, WindowPlans()), written_out_block(block, x, shift))
    plain = make_block(0)(x, WindowPlans())
    assert torch.equal(make_block(1, single=False)(x, WindowPlans()), plain)
    assert not torch.allclose(make_block(1, single=True)(x, WindowPlans()), plain)


@pytest.mark.parametrize('size', [(8, 12), (7, 9), (1, 1)])
def test_patch_embed_pads_at_the_right_and_bottom(size):
    torch.manual_seed(0)
    embed = PatchEmbed(4, 3, 8)
    randomize(embed)
    image = torch.randn(2, 3, *size)
    out = embed(image)
    rows, cols = -(-size[0] // 4), -(-size[1] // 4)
    assert out.shape == (2, rows, cols, 8)
    padded = torch.zeros(2, 3, rows * 4, cols * 4)
    padded[:, :, : size[0], : size[1]] = image
    for y in range(rows):
        for x in range(cols):
            patch = padded[:, :, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4].flatten(1)
            token = F.linear(patch, embed.proj.weight.flatten(1), embed.proj.bias)
            wanted = F.layer_norm(token, (8,), embed.norm.weight, embed.norm.bias)
            torch.testing.assert_close(out[:, y, x], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('size', [(4, 6), (5, 3), (1, 1)])
def test_patch_merging_takes_neighbours_down_first(size):
    torch.manual_seed(0)
    merge = PatchMerging(4)
    randomize(merge)
    x = torch.randn(1, *size, 4)
    out = merge(x)
    padded = torch.zeros(1, size[0] + size[0] % 2, size[1] + size[1] % 2, 4)
    padded[:, : size[0], : size[1]] = x
    assert out.shape == (1, padded.shape[1] // 2, padded.shape[2] // 2, 8)
    for i in range(out.shape[1]):
        for j in range(out.shape[2]):
            order = [(0, 0), (1, 0), (0, 1), (1, 1)]
            token = torch.cat([padded[0, 2 * i + dy, 2 * j + dx] for dy, dx in order])
            token = F.layer_norm(token, (16,), merge.norm.weight, merge.norm.bias)
            torch.testing.assert_close(out[0, i, j], merge.reduction.weight @ token)


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    x = torch.ones(2000, 2, 3)
    out = drop_path(x, 0.25, training=True)
    per_sample = out.flatten(1)
    assert (per_sample == per_sample[:, :1]).all()
    assert per_sample[:, 0].unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert out.mean() == pytest.approx(1, abs=0.05)
    assert drop_path(x, 0.25, training=False) is x
    assert drop_path(x, 0.0, training=True) is x


def test_plans_are_made_once_and_the_oldest_goes_first():
    plans = WindowPlans(capacity=2)
    device = torch.device('cpu')
    with torch.inference_mode():
        first = plans(1, 6, 6, 3, 1, device)
    assert plans(1, 6, 6, 3, 1, device) is first
    assert not first.index.is_inference()  # a later training step may save it for its backward
    plans(1, 6, 9, 3, 1, device)
    plans(2, 6, 9, 3, 1, device)
    assert len(plans.made) == 2
    assert plans(1, 6, 6, 3, 1, device) is not first
    assert copy.deepcopy(plans).made == {}
    assert pickle.loads(pickle.dumps(plans)).capacity == 2


def build(**cfg) -> SwinTransformer:
    cfg = SwinCfg(**{**dict(embed_dim=8, depths=(1, 2), num_heads=(1, 2), window_size=3), **cfg})
    return SwinTransformer(cfg, lambda stage, block, dim, heads: WindowAttention(dim, 3, heads))


def test_drop_path_rates_grow_linearly_and_every_second_block_shifts():
    swin = build(depths=(2, 3), drop_path_rate=0.4, output_norms=(1,))
    blocks = [block for layer in swin.layers for block in layer.blocks]
    assert [b.drop_path_rate for b in blocks] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert [b.shift for b in blocks] == [0, 1, 0, 1, 0]


@pytest.mark.parametrize('frozen', [-1, 0, 1, 2])
def test_frozen_stages_train_nothing_and_stay_in_eval_mode(frozen):
    swin = build(frozen_stages=frozen, output_norms=()).train()
    parts = [swin.patch_embed, *swin.layers]
    for stage, part in enumerate(parts):
        cold = stage <= frozen
        assert all(p.requires_grad != cold for p in part.parameters())
        assert all(m.training != cold for m in part.modules())


def test_norms_by_setting_and_no_buffers_in_the_state():
    swin = build(output_norms=(1,), final_norm=True)
    names = set(swin.state_dict())
    assert {'norm1.weight', 'norm.weight'} <= names
    assert 'norm0.weight' not in names
    assert names == {name for name, _ in swin.named_parameters()}
    assert build(output_norms=()).norm is None
