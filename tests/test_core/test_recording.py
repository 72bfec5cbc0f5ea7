"""Recorded cross-attention: the same results, the right probabilities, gradients."""

import copy

import pytest
import torch

from fiber_mm.core.attention import attend, padding_bias, split_heads
from fiber_mm.core.recording import record_cross_attention

from .conftest import tiny_batch, tiny_encoder


def trunks(encoder, **batch):
    images, ids, mask = tiny_batch(**batch)
    return encoder.image_trunk(images), encoder.text_trunk(ids, mask)


def same(a, b, **bounds):
    for one, other in zip((*a.stage_maps, *a[1:3]), (*b.stage_maps, *b[1:3])):
        torch.testing.assert_close(one, other, **bounds)


def test_attention_written_out():
    query, key, value = torch.randn(3, 2, 3, 5, 4).unbind()
    bias = padding_bias(torch.tensor([[True] * 5, [True] * 3 + [False] * 2]), query.dtype)
    seen = []
    out = attend(query, key, value, bias, probe=seen.append)
    torch.testing.assert_close(out, attend(query, key, value, bias))
    (probs,) = seen
    torch.testing.assert_close(probs.sum(-1), torch.ones(2, 3, 5))
    assert probs[1, ..., 3:].abs().max() == 0
    torch.testing.assert_close(out, (probs @ value).transpose(1, 2).flatten(-2))
    torch.testing.assert_close(
        attend(query, key, value, probe=seen.append), attend(query, key, value)
    )


def test_outputs_stay_equal(family):
    encoder = tiny_encoder(family=family)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            pair = trunks(encoder)
            before = encoder.fuse(*pair)
            with record_cross_attention(encoder) as record:
                recorded = encoder.fuse(*pair)
            same(recorded, before, rtol=1e-4, atol=1e-5)
            same(encoder.fuse(*pair), before, rtol=0, atol=0)  # nothing is left behind
        assert len(record) == len(encoder.plan.pairs)
    assert 'probe' not in vars(encoder.text.encoder.layer[-1].crossattention_t2i.self)


def test_gradients_of_the_parameters_stay_equal():
    encoder = tiny_encoder().double()
    other = copy.deepcopy(encoder)
    images, ids, mask = tiny_batch()
    encoder(images.double(), ids, mask).text_tokens.sum().backward()
    with record_cross_attention(other):
        other(images.double(), ids, mask).text_tokens.sum().backward()
    for (name, one), two in zip(encoder.named_parameters(), other.parameters()):
        if one.grad is not None:
            torch.testing.assert_close(one.grad, two.grad, msg=name)


def test_what_is_recorded():
    """Against the projections applied by hand, on a map that is no square."""
    encoder = tiny_encoder()
    image, text = trunks(encoder, height=40, width=56)
    with torch.no_grad(), record_cross_attention(encoder) as record:
        encoder.fuse(image, text)
        first = len(record)
        encoder.fuse(image, text)
    assert first == 4
    assert len(record) == 8
    # Two blocks on the map of stage 2 (40 x 56 pixels by 16, rounded up), two on that of stage 3.
    assert [pair.size for pair in record[:4]] == [(3, 4), (3, 4), (2, 2), (2, 2)]
    for pair in record:
        places = pair.size[0] * pair.size[1]
        heads = pair.i2t.shape[1]
        assert pair.i2t.shape == (2, heads, places, 7)
        assert pair.t2i.shape == (2, 2, 7, places)
        torch.testing.assert_close(pair.i2t.sum(-1), torch.ones(2, heads, places))
        torch.testing.assert_close(pair.t2i.sum(-1), torch.ones(2, 2, 7))
        assert pair.i2t[1, ..., ~text.mask[1]].abs().max() == 0  # padding is not attended to
    # The first pair's text side sees the map as it comes, row by row.
    plan = encoder.plan.pairs[0]
    layer = encoder.text.encoder.layer[plan.layer]
    side = layer.crossattention_t2i.self
    with torch.no_grad():
        attended = layer.attention(text.tokens, padding_bias(text.mask, text.tokens.dtype))
        query = split_heads(side.query(attended), side.heads)
        cell = side.key(image.tokens[:, 1, 2])  # row 1, column 2
        key = split_heads(side.key(image.tokens.flatten(1, 2)), side.heads)
        scores = query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5
        wanted = scores.softmax(-1)
        place = 1 * record[0].size[1] + 2
        torch.testing.assert_close(key[:, :, place].flatten(1), cell)
    torch.testing.assert_close(record[0].t2i, wanted)


@pytest.mark.parametrize('frozen', [False, True])
def test_gradients_flow_through_the_probabilities(frozen):
    encoder = tiny_encoder().double().requires_grad_(not frozen)
    image, text = (trunk.to(torch.float64).detach() for trunk in trunks(encoder.float()))
    encoder.double()
    with record_cross_attention(encoder) as record:
        fused = encoder.fuse(image, text)
    score = fused.image_tokens.square().mean() + fused.text_tokens.square().mean()
    wanted = [probs for pair in record for probs in pair[:2]]
    gradients = torch.autograd.grad(score, wanted)
    assert all(gradient.abs().max() > 0 for gradient in gradients)
    # Against a difference: the first pair's i2t probabilities nudged on the way.
    block = encoder.image.layers[encoder.plan.pairs[0].stage].blocks[encoder.plan.pairs[0].block]
    nudge = torch.randn_like(record[0].i2t)
    scores = []
    for step in (1e-5, -1e-5):

        def push(probs, step=step):
            probs.data.add_(nudge, alpha=step)

        block.attn.probe = push
        with torch.no_grad():
            fused = encoder.fuse(image, text)
        del block.attn.probe
        scores.append(fused.image_tokens.square().mean() + fused.text_tokens.square().mean())
    difference = (scores[0] - scores[1]) / 2e-5
    torch.testing.assert_close((gradients[0] * nudge).sum(), difference, rtol=1e-5, atol=1e-8)


def test_faults():
    encoder = tiny_encoder()
    with (
        record_cross_attention(encoder),
        pytest.raises(RuntimeError, match='one recording at a time'),
        record_cross_attention(encoder),
    ):
        pass
    with record_cross_attention(encoder) as record:  # the failed one left the modules as they were
        encoder.fuse(*trunks(encoder))
    assert len(record) == 4
    with (
        pytest.raises(ValueError, match='no fused blocks'),
        record_cross_attention(tiny_encoder(fusion=dict(num_blocks=0))),
    ):
        pass
    with (
        pytest.raises(ValueError, match='checkpoint=False'),
        record_cross_attention(tiny_encoder(checkpoint=True).train()),
    ):
        pass
    _, ids, _ = tiny_batch()
    tokens = [torch.randn(2, 3, encoder.cfg.swin.width(pair.stage)) for pair in encoder.plan.pairs]
    with record_cross_attention(encoder), pytest.raises(RuntimeError, match='only fuse'):
        encoder.decode_step(ids, tokens)
