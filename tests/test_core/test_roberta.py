"""RoBERTa against Hugging Face's."""

import pytest
import torch
from transformers import RobertaConfig, RobertaModel

from fiber_mm.core import FiberEncoder
from fiber_mm.core.attention import padding_bias
from fiber_mm.core.roberta import RobertaLayer

from .conftest import TINY_ROBERTA, randomize, tiny_cfg, tiny_encoder


def hugging_face_model(eps=1e-5) -> RobertaModel:
    sizes = {
        new: TINY_ROBERTA[old]
        for old, new in dict(
            vocab_size='vocab_size',
            hidden_size='hidden_size',
            num_layers='num_hidden_layers',
            num_heads='num_attention_heads',
            intermediate_size='intermediate_size',
            max_position_embeddings='max_position_embeddings',
        ).items()
    }
    config = RobertaConfig(**sizes, type_vocab_size=1, pad_token_id=1, layer_norm_eps=eps)
    model = RobertaModel(config, add_pooling_layer=False)
    randomize(model)
    return model.eval()


@pytest.mark.parametrize('tokens', [1, 7, 18])
def test_same_weights_same_numbers_as_hugging_face(tokens):
    torch.manual_seed(0)
    reference, encoder = hugging_face_model(), tiny_encoder(fusion=dict(gate_init=0.0))
    missing, unexpected = encoder.text.load_state_dict(reference.state_dict(), strict=False)
    assert not unexpected
    assert all('t2i' in name for name in missing)
    ids = torch.randint(3, TINY_ROBERTA['vocab_size'], (3, tokens))
    ids[1, tokens // 2 + 1 :] = 1
    ids[2, 1:] = 1
    mask = ids != 1
    with torch.no_grad():
        wanted = reference(ids, mask.long()).last_hidden_state
        seen = encoder.text_alone(encoder.text_trunk(ids, mask))
    torch.testing.assert_close(seen[mask], wanted[mask], rtol=1e-5, atol=1e-5)


def test_positions_count_unpadded_tokens_from_two():
    encoder = tiny_encoder()
    embeddings = encoder.text.embeddings
    with torch.no_grad():
        embeddings.word_embeddings.weight.zero_()
        embeddings.position_embeddings.weight.copy_(
            torch.eye(TINY_ROBERTA['max_position_embeddings'])[:, : TINY_ROBERTA['hidden_size']]
        )
        embeddings.token_type_embeddings.weight.zero_()
        embeddings.LayerNorm.reset_parameters()
    ids = torch.tensor([[0, 5, 1, 6, 2, 1, 1]])
    assert embeddings(ids).argmax(-1).tolist() == [[2, 3, 1, 4, 5, 1, 1]]
    assert embeddings(ids, torch.tensor([[4]])).argmax(-1).tolist() == [[6, 7, 1, 8, 9, 1, 1]]


def test_a_text_beyond_the_position_table_is_refused():
    encoder = tiny_encoder()
    ids = torch.full((1, 19), 5)
    with pytest.raises(ValueError, match='19 tokens is longer than the 18'):
        encoder.text_trunk(ids, ids != 1)


@pytest.mark.parametrize('last_norm', [True, False])
def test_cross_attention_enters_before_the_one_shared_norm(last_norm):
    torch.manual_seed(0)
    layer = RobertaLayer(tiny_cfg().roberta, image_width=12, gate_init=0.6)
    randomize(layer)
    layer.eval()
    x, image = torch.randn(2, 5, 16), torch.randn(2, 11, 12)
    mask = torch.tensor([[True] * 5, [True] * 4 + [False]])

    def heads(t):
        return t.view(*t.shape[:2], 2, 8).transpose(1, 2)

    def attention(module, query, memory, bias=None):
        q, k, v = (
            heads(t)
            for t in (module.self.query(query), module.self.key(memory), module.self.value(memory))
        )
        scores = q @ k.transpose(2, 3) / 8**0.5
        if bias is not None:
            scores = scores.masked_fill(~bias[:, None, None], -1e4)
        return module.output.dense((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))

    attended = attention(layer.attention, x, x, mask)
    cross = attention(layer.crossattention_t2i, attended, image)
    hidden = layer.attention.output.LayerNorm(x + attended + 0.6 * cross)
    wanted = hidden + layer.output.dense(torch.nn.functional.gelu(layer.intermediate.dense(hidden)))
    if last_norm:
        wanted = layer.output.LayerNorm(wanted)
    memory = layer.crossattention_t2i.self.memory(image)
    seen = layer(x, padding_bias(mask, x.dtype), memory, last_norm=last_norm)
    torch.testing.assert_close(seen, wanted)


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    encoder = tiny_encoder()
    ids = torch.randint(3, 50, (2, 6))

    def run():
        return encoder.text_alone(encoder.text_trunk(ids, ids != 1))

    assert torch.equal(run(), run())
    encoder.train()
    assert not torch.equal(run(), run())


def test_padding_rows_start_at_zero():
    embeddings = FiberEncoder(tiny_cfg()).text.embeddings
    assert not embeddings.word_embeddings.weight[1].any()
    assert not embeddings.position_embeddings.weight[1].any()
    assert embeddings.word_embeddings.weight.std().item() == pytest.approx(0.02, rel=0.1)
