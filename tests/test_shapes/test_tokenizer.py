"""The tokenizer opens offline as a RoBERTa tokenizer and keeps class words whole."""

import pytest
from transformers import AutoTokenizer, RobertaTokenizer, RobertaTokenizerFast

from fiber_mm.shapes import make_scene
from fiber_mm.shapes import vocabulary as V
from fiber_mm.shapes.tokenizer import MAX_VOCABULARY, write_tokenizer


@pytest.fixture(scope='module')
def tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder / 'tokenizer', local_files_only=True)


def test_layout_is_that_of_roberta(tokenizer):
    assert isinstance(tokenizer, RobertaTokenizerFast)
    special = [tokenizer.convert_tokens_to_ids(t) for t in ('<s>', '<pad>', '</s>', '<unk>')]
    assert special == [0, 1, 2, 3]
    assert tokenizer.mask_token_id == len(tokenizer) - 1
    assert len(tokenizer) <= MAX_VOCABULARY
    ids = tokenizer('red circle').input_ids
    assert ids[0] == 0
    assert ids[-1] == 2
    assert len(ids) == 4


@pytest.mark.parametrize('word', [*V.COLOURS, *V.SHAPES, *V.TEXTURES, *V.SIZE_WORDS])
def test_class_words_are_single_tokens(tokenizer, word):
    assert len(tokenizer.tokenize(word)) == 1
    assert len(tokenizer.tokenize(' ' + word)) == 1


def test_any_text_survives(tokenizer):
    texts = ('a red circle is above a blue square .', "Größe: 5 µm, 'ï' 🙂", ' two  spaces')
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert tokenizer.decode(ids) == text
        assert tokenizer.unk_token_id not in ids


def test_offsets_cover_phrases(tokenizer):
    scene, _ = make_scene(0, 'val', 0)
    for caption in scene.captions:
        encoding = tokenizer(caption['text'])
        for phrase in caption['phrases']:
            start, end = phrase['span']
            assert encoding.char_to_token(start) is not None
            assert encoding.char_to_token(end - 1) is not None


def test_captions_are_short_in_tokens(tokenizer):
    texts = [c['text'] for i in range(30) for c in make_scene(0, 'val', i)[0].captions]
    lengths = [len(tokenizer.tokenize(t)) for t in texts]
    assert max(lengths) <= 40
    assert sum(lengths) <= 1.1 * sum(len(t.split()) for t in texts)  # words are mostly one token


def test_slow_tokenizer_agrees(folder, tokenizer):
    slow = RobertaTokenizer.from_pretrained(folder / 'tokenizer')
    text = 'the small striped cyan cross to the left of two orange rings .'
    assert slow(text).input_ids == tokenizer(text).input_ids


def test_training_is_deterministic(folder, tmp_path):
    write_tokenizer(tmp_path)
    for path in (folder / 'tokenizer').iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()
