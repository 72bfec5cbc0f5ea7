"""Strings to padded token ids."""

import copy

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from fiber_mm.models.data_preprocessors.text import FiberDataPreprocessor, PromptTokenizer
from fiber_mm.models.utils.prompts import Prompt, caption_prompt, class_prompt
from fiber_mm.registry import MODELS


def tokens_of(tokenizer, tokens, row):
    """The text of the tokens that a row of the map marks."""
    return tokenizer.tokenizer.decode(tokens.input_ids[tokens.token_map[row]]).strip()


def make_sample(labels=None, **meta):
    sample = DetDataSample(metainfo={'img_path': 'some/image.jpg', 'img_shape': (32, 40), **meta})
    if labels is not None:
        sample.gt_instances = InstanceData(
            bboxes=torch.zeros(len(labels), 4), labels=torch.tensor(labels, dtype=torch.int64)
        )
    return sample


def make_batch(*samples):
    return {
        'inputs': [torch.zeros(3, 32, 40, dtype=torch.uint8) for _ in samples],
        'data_samples': list(samples),
    }


@pytest.fixture
def preprocessor(tokenizer_dir):
    return MODELS.build(
        {
            'type': 'FiberDataPreprocessor',
            'tokenizer': tokenizer_dir,
            'pad_to': 'longest',
            'mean': [0, 0, 0],
            'std': [1, 1, 1],
            'pad_size_divisor': 32,
        }
    )


# ---------------------------------------------------------------------------- PromptTokenizer


def test_class_prompt_marks_each_name(tokenizer_dir):
    tokenizer = PromptTokenizer(tokenizer_dir)
    tokens = tokenizer(class_prompt(['fire truck', 'bow_(weapon)', 'cat']))
    assert tokens.input_ids.shape == tokens.attention_mask.shape == (256,)
    assert tokens.token_map.shape == (3, 256)
    assert [tokens_of(tokenizer, tokens, row) for row in range(3)] == ['fire truck', 'bow', 'cat']
    length = int(tokens.attention_mask.sum())
    assert tokens.input_ids[0] == 0
    assert tokens.input_ids[length - 1] == 2
    assert (tokens.input_ids[length:] == 1).all()
    # specials and separators belong to nobody
    assert not tokens.token_map[:, 0].any()
    assert not tokens.token_map[:, length - 1 :].any()
    assert int((~tokens.token_map.any(0) & tokens.attention_mask).sum()) == 4


def test_pad_to_longest(tokenizer_dir):
    short = PromptTokenizer(tokenizer_dir, pad_to='longest')
    full = PromptTokenizer(tokenizer_dir, pad_to='max', max_tokens=64)
    prompt = class_prompt(['red circle', 'blue square'])
    tokens = short(prompt)
    assert len(tokens) % 8 == 0
    assert len(tokens) - int(tokens.attention_mask.sum()) < 8
    assert len(full(prompt)) == 64
    again = tokens.padded(64)
    assert torch.equal(again.input_ids, full(prompt).input_ids)
    assert torch.equal(again.token_map, full(prompt).token_map)
    with pytest.raises(ValueError, match='cannot pad 64'):
        again.padded(32)


def test_spans_follow_characters_beyond_ascii(tokenizer_dir):
    tokenizer = PromptTokenizer(tokenizer_dir)
    caption = '日本 café 🙂 red circle'
    start = caption.index('red')
    tokens = tokenizer(caption_prompt(caption, [[[start, len(caption)]]]))
    assert tokens_of(tokenizer, tokens, 0) == 'red circle'


def test_tokenless_phrase(tokenizer_dir):
    tokenizer = PromptTokenizer(tokenizer_dir)
    prompt = caption_prompt('a cat     dog', [[[2, 5]], [[7, 9]]])
    prompt = Prompt(prompt.text, [prompt.spans[0], []], ['cat', 'nothing'], [0, 1])
    with pytest.raises(ValueError, match=r"'nothing'.*covers no token"):
        tokenizer(prompt)
    with pytest.warns(UserWarning, match='it scores 0'):
        tokens = tokenizer(prompt, strict=False)
    assert tokens.token_map.any(1).tolist() == [True, False]


def test_long_captions(tokenizer_dir):
    tokenizer = PromptTokenizer(tokenizer_dir, max_tokens=16)
    caption = 'red circle ' * 20 + 'cat'
    with pytest.raises(ValueError, match=r"limit is 16: phrase 'cat'.*would be lost"):
        tokenizer(caption_prompt(caption, [[[0, 3]], [[len(caption) - 3, len(caption)]]]))
    tokens = tokenizer(caption_prompt(caption, [[[0, 3]]]))  # nothing of interest is cut off
    assert len(tokens) == 16
    assert tokens.attention_mask.all()
    assert tokens.input_ids[0] == 0
    assert tokens.input_ids[-1] == 2
    assert tokens_of(tokenizer, tokens, 0) == 'red'


def test_a_folder_without_a_tokenizer(tmp_path):
    with pytest.raises(ValueError, match='holds no tokenizer that can be read'):
        PromptTokenizer(str(tmp_path)).count_tokens('a')
    (tmp_path / 'config.json').write_text('{"model_type": "roberta"}')
    with pytest.raises(ValueError, match='holds no tokenizer that can be read'):
        PromptTokenizer(str(tmp_path)).count_tokens('a')


def test_missing_tokenizer(tmp_path):
    tokenizer = PromptTokenizer('no-such-org/no-such-tokenizer')  # nothing is loaded yet
    with pytest.raises(FileNotFoundError, match='nothing is downloaded'):
        tokenizer.count_tokens('a')
    (tmp_path / 'tokenizer.json').write_text('{"version": ')
    with pytest.raises(ValueError, match='holds no tokenizer that can be read'):
        PromptTokenizer(str(tmp_path)).count_tokens('a')


def test_vocabulary_must_fit(tokenizer_dir):
    size = len(PromptTokenizer(tokenizer_dir).tokenizer)
    PromptTokenizer(tokenizer_dir, vocab_size=size).count_tokens('a')
    with pytest.raises(ValueError, match=f'has {size} tokens, the model .* for 50265'):
        PromptTokenizer(tokenizer_dir, vocab_size=50265).count_tokens('a')
    loaded = PromptTokenizer(tokenizer_dir)
    loaded.count_tokens('a')
    with pytest.raises(ValueError, match='50265'):
        loaded.expect_vocab_size(50265)


def test_faulty_settings(tokenizer_dir):
    with pytest.raises(ValueError, match="'max' or 'longest'"):
        PromptTokenizer(tokenizer_dir, pad_to='batch')
    with pytest.raises(ValueError, match='at least 3'):
        PromptTokenizer(tokenizer_dir, max_tokens=2)
    with pytest.raises(TypeError, match='no fast tokenizer'):
        PromptTokenizer(object()).count_tokens('a')
    with pytest.raises(ValueError, match='prompt is empty'):
        PromptTokenizer(tokenizer_dir)(Prompt(' '))


# ---------------------------------------------------------------------- FiberDataPreprocessor


def test_training_batch(preprocessor):
    """Detection and grounding samples in one batch get one length and maps of their boxes."""
    detection = make_sample(
        [2, 0, 2], text='cat. dog. red car. ', tokens_positive={0: [[0, 3]], 2: [[10, 17]]}
    )
    caption = 'a red circle left of the small blue square'
    grounding = make_sample([1, 0], text=caption, tokens_positive=[[[2, 12]], [[25, len(caption)]]])
    data = preprocessor(make_batch(detection, grounding), True)
    assert data['inputs'].shape == (2, 3, 32, 64)
    first, second = data['data_samples']
    assert len(first.prompts) == len(second.prompts) == 1
    assert len(first.prompts[0]) == len(second.prompts[0])
    assert first.gt_instances.positive_map.shape == (3, len(first.prompts[0]))
    assert first.gt_instances.positive_map.dtype == torch.bool
    assert torch.equal(first.gt_instances.positive_map[0], first.prompts[0].token_map[1])
    assert torch.equal(first.gt_instances.positive_map[1], first.prompts[0].token_map[0])
    assert torch.equal(second.gt_instances.positive_map, second.prompts[0].token_map[[1, 0]])


def test_training_without_boxes(preprocessor):
    sample = make_sample([], text='cat. dog. ', tokens_positive={})
    data = preprocessor(make_batch(sample), True)
    prompt = data['data_samples'][0].prompts[0]
    assert data['data_samples'][0].gt_instances.positive_map.shape == (0, len(prompt))


def test_class_list(preprocessor):
    samples = [make_sample(text=('cat', 'red car'), custom_entities=True) for _ in range(2)]
    first, second = preprocessor(make_batch(*samples), False)['data_samples']
    assert first.prompts[0] is second.prompts[0]  # tokenised once
    assert first.prompts[0].names == ['cat', 'red car']
    assert 'positive_map' not in first.get('gt_instances', {})


@pytest.mark.parametrize(
    ('meta', 'names'),
    [
        ({'text': 'cat. red car', 'custom_entities': True}, ['cat', 'red car']),
        ({'text': 'a cat on the red car'}, ['a cat', 'the red car']),
        ({'text': 'a cat on the red car', 'tokens_positive': [[[2, 5]]]}, ['cat']),
        (
            {'text': 'a cat', 'tokens_positive': [[[2, 5]]], 'custom_entities': True},
            ['cat'],
        ),
        ({'text': 'the red one', 'tokens_positive': -1}, ['the red one']),
        ({'text': {'1': 'dog', '0': 'cat', '10': 'bow', '2': 'car'}}, ['cat', 'dog', 'car', 'bow']),
        (
            {
                'text': ['cat', 'dog'],
                'custom_entities': True,
                'caption_prompt': {'dog': {'suffix': ' in red'}},
            },
            ['cat', 'dog'],
        ),
    ],
)
def test_what_a_sample_may_say(preprocessor, meta, names):
    (sample,) = preprocessor(make_batch(make_sample(**meta)), False)['data_samples']
    (prompt,) = sample.prompts
    assert prompt.names == names
    assert prompt.labels.tolist() == list(range(len(names)))
    assert prompt.token_map.any(1).all()


def test_long_class_lists_are_chunked(tokenizer_dir):
    names = [f'thing {index}' for index in range(40)]
    preprocessor = FiberDataPreprocessor(tokenizer_dir, max_tokens=64)
    (sample,) = preprocessor(make_batch(make_sample(text=names)), False)['data_samples']
    assert len(sample.prompts) > 1
    assert {len(prompt) for prompt in sample.prompts} == {64}
    labels = torch.cat([prompt.labels for prompt in sample.prompts])
    assert labels.tolist() == list(range(40))
    assert [n for prompt in sample.prompts for n in prompt.names] == names
    with pytest.raises(ValueError, match=r'image.jpg.*limit is 64'):
        preprocessor(make_batch(make_sample([0], text=names)), True)

    by_size = FiberDataPreprocessor(tokenizer_dir, chunk_size=16)
    (sample,) = by_size(make_batch(make_sample(text=names)), False)['data_samples']
    assert [len(prompt.names) for prompt in sample.prompts] == [16, 16, 8]


@pytest.mark.parametrize(
    ('meta', 'error', 'message'),
    [
        ({}, KeyError, "some/image.jpg has no 'text'.*FiberPrompt"),
        ({'text': ''}, ValueError, 'some/image.jpg: the prompt is empty'),
        ({'text': '.'}, ValueError, 'some/image.jpg: the prompt is empty'),
        ({'text': []}, ValueError, 'some/image.jpg: the prompt is empty'),
        ({'text': ['cat', '']}, ValueError, "class name '' is empty"),
        ({'text': ['cat', 'cat']}, ValueError, "'cat'.*is the same as"),
        ({'text': ['cat'], 'caption_prompt': {'dog': {}}}, ValueError, "'dog', which is no class"),
    ],
)
def test_faulty_samples(preprocessor, meta, error, message):
    with pytest.raises(error, match=message):
        preprocessor(make_batch(make_sample(**meta)), False)


def test_faulty_training_samples(preprocessor):
    with pytest.raises(ValueError, match=r'image.jpg.*labels \[3\] are not in the prompt'):
        preprocessor(make_batch(make_sample([3], text='a cat', tokens_positive=[[[2, 5]]])), True)
    with pytest.raises(ValueError, match=r'image.jpg: span .* outside the caption'):
        preprocessor(make_batch(make_sample([0], text='a cat', tokens_positive=[[[2, 9]]])), True)
    for box in ([5, 5, float('nan'), 9], [5, 5, float('inf'), 9]):
        sample = make_sample([0], text='a cat', tokens_positive=[[[2, 5]]])
        sample.gt_instances.bboxes = torch.tensor([box])
        with pytest.raises(ValueError, match=r'image.jpg: ground-truth box 0 is \[5.0, 5.0'):
            preprocessor(make_batch(sample), True)
    with pytest.raises(ValueError, match="needs 'tokens_positive'"):
        preprocessor(make_batch(make_sample([0], text='a cat')), True)


@pytest.mark.parametrize(
    ('spans', 'error', 'message'),
    [
        ([[[2, 9]]], ValueError, r'image\.jpg: span \[2, 9\] of phrase 0 lies outside the caption'),
        ([[[2, 5]], [[1, 2]]], ValueError, r"phrase ' ' \(label 1.*covers no token"),
        ([[]], ValueError, 'covers no token'),
        ([[2, 5]], TypeError, r'pairs \[start, end\)'),
        ([[[0, 'a']]], TypeError, 'whole numbers'),
        ([[[0, 1.5]]], TypeError, 'whole numbers'),
    ],
)
def test_faulty_spans(preprocessor, spans, error, message):
    with pytest.raises(error, match=message):
        preprocessor(make_batch(make_sample(text='a cat', tokens_positive=spans)), False)


def test_faulty_spans_of_evaluation_data_can_score_nothing(tokenizer_dir):
    preprocessor = FiberDataPreprocessor(tokenizer_dir, skip_faulty_phrases=True)
    sample = make_sample(text='a cat', tokens_positive=[[[2, 5]], [[2, 9]]])
    with pytest.warns(UserWarning, match='outside the caption'):
        (sample,) = preprocessor(make_batch(sample), False)['data_samples']
    assert sample.prompts[0].token_map.any(1).tolist() == [True, False]


def test_works_without_samples_and_copies(preprocessor):
    batch = {'inputs': [torch.zeros(3, 32, 32, dtype=torch.uint8)]}
    assert preprocessor(dict(batch, data_samples=None), False)['data_samples'] is None
    assert not preprocessor.state_dict()
    preprocessor(make_batch(make_sample(text='a cat')), False)
    copy.deepcopy(preprocessor)  # as the EMA hook does
