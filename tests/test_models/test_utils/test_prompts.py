"""Class names and captions to prompts."""

import itertools

import pytest

from fiber_mm.models.utils.prompts import (
    caption_prompt,
    chunk_class_prompts,
    class_prompt,
    clean_class_name,
    split_caption,
    split_class_string,
)


@pytest.mark.parametrize(
    ('name', 'cleaned'),
    [
        ('bow_(weapon)', 'bow '),
        ('bow_(a)_and_(b)', 'bow '),  # from the first "(" to the last ")"
        ('car (a) b (c) d', 'car  d'.replace('  ', ' ')),
        ('traffic_light', 'traffic light'),
        ('__background__', ' background '),
        ('a____b', 'a  b'),  # halved once only
        (' cat', ' cat'),  # never stripped
        ('Person', 'Person'),
    ],
)
def test_clean_class_name(name, cleaned):
    assert clean_class_name(name) == cleaned


@pytest.mark.parametrize('name', ['', '  ', '(weapon)', '_'])
def test_empty_name(name):
    with pytest.raises(ValueError, match='is empty once'):
        clean_class_name(name)


def test_class_prompt_spans():
    prompt = class_prompt(['cat', 'bow_(weapon)', 'red_car'])
    assert prompt.text == 'cat. bow . red car'
    assert [prompt.text[a:b] for ((a, b),) in prompt.spans] == ['cat', 'bow ', 'red car']
    assert prompt.names == ['cat', 'bow', 'red car']
    assert prompt.labels == [0, 1, 2]


def test_class_prompt_affixes():
    """ODinW's Aquarium prompts: prefix and suffix are in the text, not in the span."""
    prompt = class_prompt(
        ['fish', 'penguin', 'puffin'],
        {
            'fish': {'prefix': ' '},
            'penguin': {'suffix': ' , which is black and white'},
            'puffin': {'name': 'sea bird', 'suffix': ' with orange beaks '},
        },
    )
    expected = ' fish. penguin , which is black and white. sea bird with orange beaks '
    assert prompt.text == expected
    assert [prompt.text[a:b] for ((a, b),) in prompt.spans] == ['fish', 'penguin', 'sea bird']
    assert prompt.names == ['fish', 'penguin', 'puffin']


def test_faulty_affixes():
    with pytest.raises(ValueError, match="'fsh', which is no class"):
        class_prompt(['fish'], {'fsh': {'prefix': ' '}})
    with pytest.raises(ValueError, match=r"unknown keys \['sufix'\]"):
        class_prompt(['fish'], {'fish': {'sufix': ' '}})
    with pytest.raises(ValueError, match='empty name'):
        class_prompt(['fish'], {'fish': {'name': ' '}})


def test_faulty_class_lists():
    with pytest.raises(ValueError, match='prompt is empty'):
        class_prompt([])
    with pytest.raises(TypeError, match='list of strings'):
        class_prompt('cat')
    with pytest.raises(TypeError, match='must be a string, got int'):
        class_prompt(['cat', 3])
    with pytest.raises(ValueError, match=r"'red_car' \(number 2\).*'red car' \(number 0\)"):
        class_prompt(['red car', 'dog', 'red_car'])


def test_names_that_differ_in_parentheses_are_two_classes():
    prompt = class_prompt(['bow_(weapon)', 'bow_(decorative_ribbons)'])
    assert prompt.names == ['bow', 'bow']


def test_split_class_string():
    assert split_class_string('cat. red car . dog.') == ['cat', 'red car', 'dog']
    assert split_class_string(' . ') == []
    for text in ('cat. . dog', 'cat . .. . dog'):
        with pytest.raises(ValueError, match='class name number 1 of .* is empty'):
            split_class_string(text)


def count_words(text):
    return len(text.replace('.', ' .').split()) + 2


def test_chunks_hold_every_class_once():
    names = [f'thing number {index}' for index in range(50)]
    chunks = chunk_class_prompts(names, count_words, max_tokens=30)
    assert [label for chunk in chunks for label in chunk.labels] == list(range(50))
    assert all(count_words(chunk.text) <= 30 for chunk in chunks)
    for chunk, after in itertools.pairwise(chunks):  # greedy: the next class would not have fitted
        assert count_words(chunk.text + '. ' + after.names[0]) > 30
    for chunk in chunks:
        assert [chunk.text[a:b] for ((a, b),) in chunk.spans] == chunk.names


def test_chunks_of_a_fixed_size():
    names = [f'c{index}' for index in range(1203)]
    chunks = chunk_class_prompts(names, count_words, max_tokens=256, chunk_size=40)
    assert len(chunks) == 31
    assert {len(chunk.labels) for chunk in chunks} == {40, 3}


def test_one_chunk_where_all_fits():
    assert len(chunk_class_prompts(['a', 'b'], count_words, max_tokens=5)) == 1
    assert len(chunk_class_prompts(['a', 'b'], count_words, max_tokens=4)) == 2


def test_class_longer_than_the_limit():
    with pytest.raises(ValueError, match="class 'a b c d e f' alone has 8 tokens, the limit is 6"):
        chunk_class_prompts(['x', 'a b c d e f'], count_words, max_tokens=6)
    with pytest.raises(ValueError, match='chunk_size'):
        chunk_class_prompts(['x'], count_words, chunk_size=0)


def test_caption_with_spans():
    prompt = caption_prompt('a cat on a mat', [[[2, 5]], [[0, 1], [11, 14]]])
    assert prompt.spans == [[(2, 5)], [(0, 1), (11, 14)]]
    assert prompt.names == ['cat', 'a / mat']
    assert prompt.labels == [0, 1]


def test_caption_with_spans_by_label():
    prompt = caption_prompt('cat. dog. ', {4: [[5, 8]], 1: [[0, 3]]})
    assert prompt.labels == [1, 4]
    assert prompt.names == ['cat', 'dog']


def test_whole_caption():
    assert caption_prompt('the red one', -1).spans == [[(0, 11)]]
    assert caption_prompt('It is raining').spans == [[(0, 13)]]  # no noun phrase found
    assert caption_prompt('a cat on a mat').names == ['a cat', 'a mat']


@pytest.mark.parametrize(
    ('span', 'fault'),
    [
        ([2, 50], 'outside the caption of 14'),
        ([-1, 3], 'outside'),
        ([5, 2], 'reversed'),
        ([3, 3], 'reversed or empty'),
    ],
)
def test_faulty_span(span, fault):
    with pytest.raises(ValueError, match=fault):
        caption_prompt('a cat on a mat', [[[2, 5]], [span]])
    with pytest.warns(UserWarning, match=fault):
        prompt = caption_prompt('a cat on a mat', [[[2, 5]], [span]], strict=False)
    assert prompt.spans == [[(2, 5)], []]


def test_faulty_caption():
    with pytest.raises(ValueError, match='prompt is empty'):
        caption_prompt('  ')
    for wrong in ([[2, 5]], [0, 5], [None], ['ab'], 'ab', [[['a', 'b']]], [['ab']], 2.5):
        with pytest.raises(TypeError, match='list of pairs.*; got'):
            caption_prompt('a cat', wrong)
    with pytest.raises(TypeError, match="keys of tokens_positive are labels.*'cat'"):
        caption_prompt('a cat', {'cat': [[2, 5]]})
    assert caption_prompt('a cat', {'0': [[2, 5]]}).spans == [[(2, 5)]]
    with pytest.raises(ValueError, match='or -1 for the whole'):
        caption_prompt('a cat', 3)


def words(text):
    """A tokenizer of words, with two special tokens."""
    return len(text.split()) + 2


PHRASES = ('a red cat', 'two dogs', 'the old car', 'a blue ring')
LONG = '  a red cat sees two dogs from the window of the old car next to a blue ring in the grass'


@pytest.mark.parametrize('limit', [7, 8, 10, 14, 18])
def test_long_captions_are_split_between_phrases(limit):
    spans = [[[LONG.index(phrase), LONG.index(phrase) + len(phrase)]] for phrase in PHRASES]
    prompt = caption_prompt(LONG, {3 * i: span for i, span in enumerate(spans)})
    pieces = split_caption(prompt, words, limit)
    assert len(pieces) > 1
    assert all(words(piece.text) <= limit and piece.text in LONG for piece in pieces)
    found = {}
    for piece in pieces:
        for label, name, ((start, end),) in zip(piece.labels, piece.names, piece.spans):
            assert piece.text[start:end] == name
            found[label] = name
    assert found == {3 * i: phrase for i, phrase in enumerate(PHRASES)}
    if limit >= 14:  # what lies between the phrases is read, too
        assert ' '.join(piece.text for piece in pieces) == LONG.strip()
    assert all(words(piece.text) >= min(limit, 7) - 1 for piece in pieces), 'filled up'


def test_captions_that_need_no_splitting():
    prompt = caption_prompt(LONG, [[[2, 11]]])
    assert split_caption(prompt, words, 7) == [prompt], 'the rest is cut off'
    prompt = caption_prompt(LONG, -1)
    assert split_caption(prompt, words, words(LONG)) == [prompt]
    with pytest.raises(ValueError, match='reaches over 23 tokens of the caption, the limit is 20'):
        split_caption(prompt, words, 20)


def test_phrases_of_several_places_and_of_none_are_kept():
    end = len(LONG)
    spans = {0: [[2, 11], [17, 25]], 1: [[end - 5, end]], 2: [[end, end + 3]]}
    with pytest.warns(UserWarning, match='outside'):
        prompt = caption_prompt(LONG, spans, strict=False)
    pieces = split_caption(prompt, words, 9)
    assert sorted(label for piece in pieces for label in piece.labels) == [0, 1, 2]
    (first,) = (piece for piece in pieces if 0 in piece.labels)
    assert [first.text[a:b] for a, b in first.spans[0]] == ['a red cat', 'two dogs']
    assert first.spans[first.labels.index(2)] == []
    with pytest.raises(ValueError, match=r"red cat / two dogs' reaches over 8 tokens .* is 7"):
        split_caption(prompt, words, 7)
