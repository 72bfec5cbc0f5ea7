import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, DataCollatorForLanguageModeling

from fiber_mm.datasets.transforms.mask import FiberMaskTokens, mask_tokens


@pytest.fixture(scope='module')
def tokenizer(tokenizer_dir):
    return AutoTokenizer.from_pretrained(tokenizer_dir)


def shares(hidden, labels, ids, mask_id):
    """Of all tokens the chosen ones; of these the masked, the kept and the random ones."""
    chosen = labels != -100
    return [
        chosen.mean(),
        (hidden[chosen] == mask_id).mean(),
        (hidden[chosen] == ids[chosen]).mean(),
    ]


def test_shares_are_those_of_transformers_collator(tokenizer):
    """The original masks by that collator."""
    count = 40000
    ids = np.full(count, 100)
    hidden, labels = mask_tokens(ids, np.zeros(count, dtype=bool), 4, 50265, 0.15)
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
    theirs, their_labels = collator.torch_mask_tokens(
        torch.from_numpy(ids)[None].clone(), torch.zeros(1, count, dtype=torch.int64)
    )
    got = shares(hidden, labels, ids, 4)
    wanted = shares(theirs[0].numpy(), their_labels[0].numpy(), ids, tokenizer.mask_token_id)
    np.testing.assert_allclose(got, wanted, atol=0.02)
    np.testing.assert_allclose(got, [0.15, 0.8, 0.1], atol=0.02)
    assert (hidden[labels == -100] == 100).all()
    assert (labels[labels != -100] == 100).all()


def test_random_words_come_from_the_whole_vocabulary():
    hidden, labels = mask_tokens(np.full(9000, 3), np.zeros(9000, dtype=bool), 9, 10, 1.0)
    assert (labels == 3).all()
    others = np.bincount(hidden[(hidden != 9) & (hidden != 3)], minlength=10)
    assert (others[[0, 1, 2, 4, 5, 6, 7, 8]] > 50).all()


def test_transform(tokenizer, tokenizer_dir):
    transform = FiberMaskTokens(tokenizer_dir, max_tokens=12, prob=1.0)
    text = 'a red circle left of the small blue square'
    results = transform(dict(text=text))
    ids = np.array(tokenizer(text)['input_ids'])
    assert results['text'] == text
    assert results['mlm_labels'].tolist() == [-100, *ids[1:-1], -100]
    assert results['mlm_ids'][0] == 0
    assert results['mlm_ids'][-1] == 2
    again = transform(dict(text=text))
    assert (again['mlm_ids'] != results['mlm_ids']).any(), 'drawn anew'


def test_long_texts_end_as_in_the_preprocessor(tokenizer_dir):
    results = FiberMaskTokens(tokenizer_dir, max_tokens=6, prob=1.0)(dict(text='red ' * 20))
    assert len(results['mlm_ids']) == 6
    assert results['mlm_ids'][-1] == 2


def test_bad_input(tokenizer_dir):
    with pytest.raises(TypeError, match="one string under 'text', got list"):
        FiberMaskTokens(tokenizer_dir)(dict(text=['a', 'b']))
    with pytest.raises(TypeError, match=r"got NoneType in a sample with the keys \['img'\]"):
        FiberMaskTokens(tokenizer_dir)(dict(img=1))
    with pytest.raises(ValueError, match='prob'):
        FiberMaskTokens(tokenizer_dir, prob=0)
