import numpy as np
import pytest
import torch
from mmpretrain.structures import DataSample

from fiber_mm.datasets.transforms import FiberMaskTokens, FiberPackImageText
from fiber_mm.models.data_preprocessors import image_text
from fiber_mm.registry import MODELS

TEXTS = ('a red circle', 'small blue square left of the large green triangle')


def build(tokenizer_dir, **settings):
    return MODELS.build(
        dict(
            type='FiberImageTextPreprocessor',
            tokenizer=tokenizer_dir,
            mean=[120.0, 110.0, 100.0],
            std=[60.0, 50.0, 40.0],
            to_rgb=True,
            **settings,
        )
    )


def batch(texts=TEXTS):
    samples = []
    for i, text in enumerate(texts):
        sample = DataSample()
        sample.set_field(text, 'text')
        sample.set_field(f'{i}.jpg', 'img_path', field_type='metainfo')
        samples.append(sample)
    return dict(inputs=torch.zeros(len(texts), 3, 4, 4, dtype=torch.uint8), data_samples=samples)


def test_images_and_texts(tokenizer_dir):
    preprocessor = build(tokenizer_dir)
    data = batch()
    data['inputs'][:, 0] = 180  # blue, since images come as BGR
    out = preprocessor(data)
    assert out.keys() == {'images', 'texts', 'data_samples'}
    torch.testing.assert_close(out['images'][0, :, 0, 0], torch.tensor([-2.0, -2.2, 2.0]))
    texts, tokenizer = out['texts'], preprocessor.text.tokenizer
    assert texts.input_ids.shape == (2, 40)
    for row, mask, text in zip(texts.input_ids, texts.attention_mask, TEXTS):
        assert row[mask].tolist() == tokenizer(text)['input_ids']
        assert (row[~mask] == 1).all()
    assert texts.masked_ids is None
    assert [sample.text for sample in out['data_samples']] == list(TEXTS)


def test_images_may_come_as_a_list(tokenizer_dir):
    preprocessor, data = build(tokenizer_dir), batch()
    data['inputs'] = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    listed = dict(data, inputs=list(data['inputs']))
    assert torch.equal(preprocessor(listed)['images'], preprocessor(data)['images'])
    listed['inputs'][1] = torch.zeros(3, 8, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r'several sizes.*FiberSquareResize'):
        preprocessor(listed)


def test_padding_to_the_longest(tokenizer_dir):
    texts = build(tokenizer_dir, pad_to='longest')(batch())['texts']
    longest = int(texts.attention_mask.sum(1).max())
    assert texts.input_ids.shape[1] == -(-longest // 8) * 8


def test_long_texts_are_truncated_and_counted(tokenizer_dir, monkeypatch):
    preprocessor = build(tokenizer_dir, max_tokens=5)
    logged = []
    monkeypatch.setattr(
        'fiber_mm.datasets.transforms.boxes.print_log', lambda text, *_: logged.append(text)
    )
    texts = preprocessor(batch())['texts']
    assert texts.input_ids.shape == (2, 5)
    assert texts.input_ids[1, -1] == 2
    assert preprocessor.truncated.total == 1
    assert logged == [
        '1 ends of texts with more than 5 tokens left out so far, last in img_path 1.jpg'
    ]


def hidden_words(tokenizer_dir, texts=TEXTS, **settings):
    transform, pack = FiberMaskTokens(tokenizer_dir, prob=0.5, **settings), FiberPackImageText()
    packed = [
        pack(transform(dict(text=text, img=np.zeros((4, 4, 3), np.uint8), img_path='x.jpg')))
        for text in texts
    ]
    return dict(
        inputs=torch.stack([sample['inputs'] for sample in packed]),
        data_samples=[sample['data_samples'] for sample in packed],
    )


def test_hidden_words(tokenizer_dir):
    data = hidden_words(tokenizer_dir)
    texts = build(tokenizer_dir)(data, training=True)['texts']
    length = texts.input_ids.shape[1]
    labels = torch.full((2, length), -100)
    labels.view(-1)[texts.masked_positions] = texts.masked_labels
    for i, sample in enumerate(data['data_samples']):
        tokens = len(sample.mlm_ids)
        assert texts.masked_ids[i, :tokens].tolist() == sample.mlm_ids.tolist()
        assert labels[i, :tokens].tolist() == sample.mlm_labels.tolist()
        assert (labels[i, tokens:] == -100).all()
    chosen = labels != -100
    assert chosen.any()
    assert torch.equal(texts.input_ids[chosen], labels[chosen])


def test_masking_and_preprocessing_must_agree(tokenizer_dir):
    data = hidden_words(tokenizer_dir, max_tokens=6)
    with pytest.raises(ValueError, match='FiberMaskTokens made 6 tokens of a text that has'):
        build(tokenizer_dir)(data)


def test_ranks_need_one_length(tokenizer_dir, monkeypatch):
    monkeypatch.setattr(image_text, 'get_world_size', lambda: 2)
    preprocessor = build(tokenizer_dir, pad_to='longest')
    with pytest.raises(ValueError, match="set pad_to='max'"):
        preprocessor(batch(), training=True)
    preprocessor(batch())  # evaluation gathers nothing


@pytest.mark.parametrize(
    ('texts', 'error', 'message'),
    [
        (('a', ' '), ValueError, r"img_path 1.jpg: the text under 'text' is empty"),
        ((['a', 'b'], 'c'), TypeError, r'img_path 0.jpg: one text is wanted .* found list'),
        ((None, 'c'), TypeError, r'found nothing; the packer must list this key'),
    ],
)
def test_bad_texts(tokenizer_dir, texts, error, message):
    with pytest.raises(error, match=message):
        build(tokenizer_dir)(batch(texts))


def test_no_samples(tokenizer_dir):
    with pytest.raises(KeyError, match='data_samples'):
        build(tokenizer_dir)(dict(inputs=torch.zeros(1, 3, 4, 4)))


def test_the_vocabulary_is_checked(tokenizer_dir):
    with pytest.raises(ValueError, match='word embeddings for 7'):
        build(tokenizer_dir, vocab_size=7)(batch())
