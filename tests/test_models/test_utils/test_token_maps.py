"""Spans to token maps, tokens to class scores."""

import pytest
import torch

from fiber_mm.models.utils.token_maps import spans_to_token_map, token_to_class_scores


class WordEncoding:
    """Stands in for a tokenizer: one token a word or "." after <s>, none for blanks."""

    def __init__(self, text):
        self.tokens = {}
        token, open_word = 0, False
        for index, char in enumerate(text):
            if char == ' ':
                open_word = False
                continue
            if not open_word or char == '.':
                token += 1
            open_word = char != '.'
            self.tokens[index] = token

    def char_to_token(self, index):
        if index < 0:
            raise OverflowError
        return self.tokens.get(index)


def positions(text, spans, num_tokens=16):
    token_map = spans_to_token_map(WordEncoding(text), [spans], num_tokens)
    assert token_map.dtype == torch.bool
    return token_map[0].nonzero().flatten().tolist()


def test_tokens_between_are_positive():
    text = 'cat. red fire truck. dog'  # <s> cat . red fire truck . dog </s>
    assert positions(text, [(5, 19)]) == [3, 4, 5]
    assert positions(text, [(0, 3), (21, 24)]) == [1, 7]
    assert positions(text, [(0, 3)]) == [1]  # not the separator


def test_blank_ends_fall_back():
    text = '  bow  . cat'
    assert positions(text, [(0, 5)]) == [1]  # start + 2
    assert positions(text, [(1, 6)]) == [1]  # start + 1, end - 2
    assert positions(text, [(2, 7)]) == [1]  # end - 3
    assert positions('   bow', [(0, 6)]) == []  # start + 3 is not asked


def test_span_on_no_token():
    assert positions('a    b', [(2, 4)]) == []
    assert positions(' a', [(0, 1)]) == []  # start + 1 is behind the end, -1 does not exist
    assert positions('', [(0, 1)]) == []


def test_tokens_beyond_the_columns_are_left_out():
    assert positions('a b c', [(0, 5)], num_tokens=3) == [1, 2]


def test_scores_are_means():
    probs = torch.tensor([[[0.2, 0.4, 0.9, 1.0]]])
    token_map = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]).bool()
    expected = torch.tensor([[[0.3, 0.9, 0.0]]])
    torch.testing.assert_close(token_to_class_scores(probs, token_map), expected)


def test_scores_against_a_loop():
    generator = torch.Generator().manual_seed(0)
    probs = torch.rand(2, 5, 7, generator=generator)
    token_map = torch.rand(2, 4, 7, generator=generator) > 0.5
    token_map[1, 2] = False
    scores = token_to_class_scores(probs, token_map)
    for b in range(2):
        for c in range(4):
            tokens = token_map[b, c].nonzero().flatten()
            expected = probs[b][:, tokens].mean(-1) if len(tokens) else torch.zeros(5)
            torch.testing.assert_close(scores[b, :, c], expected)


def test_scores_stay_fp32_under_autocast():
    probs = torch.full((1, 1, 3), 1 / 3)
    token_map = torch.ones(1, 3, dtype=torch.bool)
    with torch.autocast('cpu', torch.bfloat16):
        scores = token_to_class_scores(probs, token_map)
    assert scores.dtype == torch.float32
    assert abs(scores.item() - 1 / 3) < 1e-6


def test_shapes_are_checked():
    with pytest.raises(ValueError, match='token_map has 4 tokens, probs has 3'):
        token_to_class_scores(torch.zeros(1, 2, 3), torch.zeros(1, 4).bool())
    with pytest.raises(ValueError, match='neither'):
        token_to_class_scores(torch.zeros(2, 2, 3), torch.zeros(3, 1, 3).bool())
