"""Starting values: heads that look at neighbours, kernels near the identity."""

import pytest
import torch

from fiber_mm.core import FiberEncoder
from fiber_mm.core.attention import split_heads
from fiber_mm.core.local_init import (
    WORD_SHIFTS,
    near_identity_,
    nearest_offsets,
    position_code,
)
from fiber_mm.core.swin import WindowAttention
from test_core.conftest import tiny_cfg


def test_nearest_offsets_by_hand():
    assert nearest_offsets(2) == [(0, 1), (1, 0)]
    assert set(nearest_offsets(4)) == {(0, 1), (1, 0), (0, -1), (-1, 0)}
    assert set(nearest_offsets(8)) == {(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)} - {(0, 0)}
    assert len(set(nearest_offsets(32))) == 32


def test_each_head_of_a_window_looks_at_its_neighbour():
    encoder = FiberEncoder(tiny_cfg(swin=dict(local_init=True)))
    for module in encoder.image.modules():
        if not isinstance(module, WindowAttention):
            continue
        size = module.size
        middle = size // 2
        query = middle * size + middle
        for head, (dy, dx) in enumerate(nearest_offsets(module.heads)):
            y, x = middle + dy, middle + dx
            if 0 <= y < size and 0 <= x < size:
                row = module.bias()[head, query]
                assert row.argmax().item() == y * size + x
                assert row.max() == 0


def test_heads_of_the_text_look_before_and_after():
    torch.manual_seed(0)
    cfg = tiny_cfg(roberta=dict(hidden_size=48, num_heads=4, local_init=True, word_init_std=1.0))
    encoder = FiberEncoder(cfg).eval()
    ids = torch.arange(5, 15)[None] % cfg.roberta.vocab_size
    x = encoder.text.embeddings(ids)
    attention = encoder.text.encoder.layer[0].attention.self
    query, key = (
        split_heads(layer(x), attention.heads) for layer in (attention.query, attention.key)
    )
    scores = (query @ key.transpose(-1, -2))[0]
    words = torch.arange(ids.shape[1])
    for head, shift in zip(scores, WORD_SHIFTS):
        seen = words + shift
        inside = (seen >= 0) & (seen < len(words))
        assert torch.equal(head.argmax(-1)[inside], seen[inside])


def test_only_values_change():
    plain = FiberEncoder(tiny_cfg())
    local = FiberEncoder(tiny_cfg(swin=dict(local_init=True), roberta=dict(local_init=True)))
    local.load_state_dict(plain.state_dict())
    padding = plain.cfg.roberta.pad_token_id
    fresh = FiberEncoder(tiny_cfg(roberta=dict(local_init=True)))
    for table in ('word_embeddings', 'position_embeddings'):
        assert not getattr(fresh.text.embeddings, table).weight[padding].any()


def test_heads_of_odd_width_are_refused():
    with pytest.raises(ValueError, match='even width'):
        FiberEncoder(tiny_cfg(roberta=dict(hidden_size=12, num_heads=4, local_init=True)))


def test_position_code_turns_with_the_position():
    frequencies = torch.tensor([0.3, 1.0])
    code = position_code(20, frequencies)
    products = code @ code.t()
    # 2 * sum of cosines of the distance, the same everywhere.
    wanted = 2 * torch.cos(5 * frequencies).sum()
    torch.testing.assert_close(products.diagonal(5), wanted.expand(15))


def test_near_identity_kernel():
    kernel = torch.randn(3, 3, 3, 3)
    wanted = kernel * 0.5
    wanted[:, :, 1, 1] += torch.eye(3)
    assert near_identity_(kernel, 0.5) is kernel
    torch.testing.assert_close(kernel, wanted)
