"""Training prompts."""

# ruff: noqa: NPY002

import copy
import json

import numpy as np
import pytest
from mmdet.structures.bbox import HorizontalBoxes

from fiber_mm.datasets.transforms.prompt import FiberPackInputs, FiberPrompt, class_list

NAMES = ['cat', 'dog', 'red car', 'bow_(weapon)', 'fire truck', 'traffic light']


def make_results(labels, text, **more):
    labels = np.array(labels, dtype=np.int64)
    boxes = np.zeros((len(labels), 4), np.float32)
    boxes[:, 2] = np.arange(len(labels)) + 1
    return {
        'img_path': 'some/image.jpg',
        'gt_bboxes': HorizontalBoxes(boxes),
        'gt_bboxes_labels': labels,
        'gt_ignore_flags': np.zeros(len(labels), bool),
        'text': text,
        **more,
    }


def entity_texts(results):
    """For each box the words that it is labelled with."""
    text = results['text']
    return [
        ' / '.join(text[a:b] for a, b in results['tokens_positive'][label])
        for label in results['gt_bboxes_labels']
    ]


@pytest.fixture(autouse=True)
def seeded():
    np.random.seed(0)


def test_class_list_to_prompt(tokenizer_dir):
    transform = FiberPrompt(tokenizer_dir, num_negatives=3)
    texts = set()
    for _ in range(50):
        results = transform(make_results([2, 0, 2], NAMES))
        names = results['text'].split('. ')
        texts.add(results['text'])
        assert entity_texts(results) == ['red car', 'cat', 'red car']
        assert len(results['tokens_positive']) == 2
        assert {'red car', 'cat'} <= set(names)
        assert len(names) == len(set(names)) <= 5
        assert not results['text'].endswith('. ')
        assert results['custom_entities'] is False
    assert len(texts) > 20  # order and negatives vary
    assert NAMES[3] == 'bow_(weapon)'  # nothing is changed in the list


def test_all_classes(tokenizer_dir):
    """COCO: all classes in random order."""
    results = FiberPrompt(tokenizer_dir, num_negatives=None)(make_results([1], NAMES))
    expected = ['cat', 'dog', 'red car', 'bow ', 'fire truck', 'traffic light']
    assert sorted(results['text'].split('. ')) == sorted(expected)
    assert entity_texts(results) == ['dog']


def test_all_classes_are_limited_by_their_own_tokens_alone(tokenizer_dir):
    """Not by the count for sampled negatives, which has a token more for every name.

    COCO's 80 names are 194 tokens or so together, and 311 in that count: 65 of them would be left.
    """
    names = [f'{colour} cat' for colour in ('red', 'blue', 'green', 'grey', 'black', 'white')]
    count = FiberPrompt(tokenizer_dir).text.count_tokens
    orders = [count('. '.join(names[i:] + names[:i])) for i in range(len(names))]
    assert sum(count(f'{name}. ') - 2 for name in names) > max(orders) - 2
    transform = FiberPrompt(tokenizer_dir, max_tokens=max(orders), num_negatives=None)
    for present in ([0], [0, 1, 2, 3, 4, 5]):
        results = transform(make_results(present, names))
        assert sorted(results['text'].split('. ')) == sorted(names)
        assert entity_texts(results) == [names[i] for i in present]
    assert transform.overflowed.total == 0
    # More than can be: those of the image, and some of the others.
    transform = FiberPrompt(tokenizer_dir, max_tokens=min(orders) - 1, num_negatives=None)
    results = transform(make_results([0], names))
    assert 1 < len(results['text'].split('. ')) < len(names)
    assert entity_texts(results) == names[:1]


def test_negatives_follow_the_probabilities(tokenizer_dir):
    """Objects365: 5 % one, 5 % none, 50 % all that are wanted, else uniform."""
    transform = FiberPrompt(
        tokenizer_dir, num_negatives=4, one_negative_prob=0.2, no_negative_prob=0.2, full_prob=0.3
    )
    counts = np.zeros(5)
    for _ in range(4000):
        counts[len(transform._draw_negatives(100, set()))] += 1
    uniform = 0.3 / 4
    expected = np.array([0.2, 0.2 + uniform, uniform, uniform, 0.3 + uniform])
    assert np.abs(counts / 4000 - expected).max() < 0.025


def test_classes_in_the_image_are_no_negatives(tokenizer_dir):
    transform = FiberPrompt(tokenizer_dir, num_negatives=6)
    assert set(transform._draw_negatives(6, {0, 5})) == {1, 2, 3, 4}
    results = transform(make_results([], NAMES))
    assert results['tokens_positive'] == []
    assert len(results['text'].split('. ')) == 6


def test_extra_negatives(tokenizer_dir):
    transform = FiberPrompt(tokenizer_dir, num_negatives=None, extra_negatives=['__background__'])
    results = transform(make_results([0], ['cat', 'dog']))
    assert ' background ' in results['text']
    assert entity_texts(results) == ['cat']


def test_positive_classes_that_overflow_lose_their_boxes(tokenizer_dir):
    transform = FiberPrompt(tokenizer_dir, max_tokens=16, num_negatives=6)
    cost = transform._cost('cat')
    assert cost == transform.text.count_tokens('cat. ') - 2
    labels = list(range(6)) * 2
    for _ in range(20):
        results = transform(make_results(labels, NAMES))
        assert transform.text.count_tokens(results['text']) <= 16
        kept = entity_texts(results)
        assert 0 < len(kept) < 12
        assert len(results['gt_bboxes']) == len(kept) == len(results['gt_ignore_flags'])
        boxes = results['gt_bboxes'].tensor[:, 2].int() - 1  # which of the boxes were kept
        original = [NAMES[labels[box]].replace('_(weapon)', ' ') for box in boxes]
        assert original == kept
    assert transform.overflowed.total > 0


def test_negatives_fill_what_is_left(tokenizer_dir):
    names = [f'thing {index}' for index in range(100)]
    transform = FiberPrompt(tokenizer_dir, max_tokens=64, num_negatives=85)
    results = transform(make_results([7], names))
    used = transform.text.count_tokens(results['text'])
    assert 40 < used <= 64
    assert entity_texts(results) == ['thing 7']


def test_fixed_order_with_affixes(tokenizer_dir):
    transform = FiberPrompt(tokenizer_dir, num_negatives=None, shuffle=False)
    affixes = {'dog': {'suffix': ' in red'}}
    results = transform(make_results([1], ['cat', 'dog'], caption_prompt=affixes))
    assert results['text'] == 'cat. dog in red'
    assert entity_texts(results) == ['dog']
    with pytest.raises(ValueError, match='shuffle=False'):
        FiberPrompt(tokenizer_dir)(make_results([1], ['cat', 'dog'], caption_prompt=affixes))
    with pytest.raises(ValueError, match='num_negatives=None'):
        FiberPrompt(tokenizer_dir, shuffle=False)


def test_ignored_boxes_go(tokenizer_dir):
    results = make_results([0, 1], NAMES)
    results['gt_ignore_flags'][0] = True
    results = FiberPrompt(tokenizer_dir, num_negatives=0)(results)
    assert results['text'] == 'dog'
    assert entity_texts(results) == ['dog']


def test_label_map(tokenizer_dir, tmp_path):
    label_map = {str(index): name for index, name in enumerate(NAMES)}
    before = copy.deepcopy(label_map)
    transform = FiberPrompt(tokenizer_dir, num_negatives=2)
    assert entity_texts(transform(make_results([3], label_map))) == ['bow ']
    assert label_map == before
    path = tmp_path / 'label_map.json'
    path.write_text(json.dumps(label_map))
    results = make_results([2], None)
    del results['text']
    transform = FiberPrompt(tokenizer_dir, num_negatives=2, label_map_file=str(path))
    assert entity_texts(transform(results)) == ['red car']
    with pytest.raises(ValueError, match='without gaps'):
        class_list({'1': 'cat', '2': 'dog'})


CAPTION = 'a red circle left of the small blue square'
SPANS = [[[2, 12]], [[0, 1]], [[31, 42]]]


@pytest.mark.parametrize('kind', ['list', 'dict', 'odvg'])
def test_captions(tokenizer_dir, kind):
    more = {
        'list': {'tokens_positive': SPANS},
        'dict': {'tokens_positive': dict(enumerate(SPANS))},
        'odvg': {'phrases': {i: {'phrase': '', 'tokens_positive': s} for i, s in enumerate(SPANS)}},
    }[kind]
    results = FiberPrompt(tokenizer_dir)(make_results([2, 0, 2], CAPTION, **more))
    assert results['text'] == CAPTION
    assert entity_texts(results) == ['blue square', 'red circle', 'blue square']
    assert len(results['tokens_positive']) == 2  # phrases without boxes are not named


def test_phrases_beyond_the_limit_lose_their_boxes(tokenizer_dir):
    caption = 'cat ' + 'circle ' * 30 + 'dog'
    spans = [[[0, 3]], [[len(caption) - 3, len(caption)]]]
    transform = FiberPrompt(tokenizer_dir, max_tokens=16)
    results = transform(make_results([0, 1, 1], caption, tokens_positive=spans))
    assert entity_texts(results) == ['cat']
    assert transform.faulty.total == 2


def test_faulty_phrases_can_be_skipped(tokenizer_dir):
    spans = [[[2, 12]], [[40, 99]], [[9, 5]], [[1, 1]]]
    transform = FiberPrompt(tokenizer_dir, skip_faulty_phrases=True)
    results = transform(make_results([0, 1, 2, 3], CAPTION, tokens_positive=spans))
    assert entity_texts(results) == ['red circle']
    assert transform.faulty.total == 3


def test_faulty_samples(tokenizer_dir):
    transform = FiberPrompt(tokenizer_dir)
    results = make_results([0], NAMES)
    del results['text']
    with pytest.raises(KeyError, match=r"some/image\.jpg has no 'text'"):
        transform(results)
    results = make_results([0], NAMES)
    del results['gt_bboxes']
    with pytest.raises(KeyError, match='LoadAnnotations'):
        transform(results)
    with pytest.raises(ValueError, match=r'labels \[0, 9\] do not fit the 6 classes'):
        transform(make_results([0, 9], NAMES))
    for names, message in (
        ([*NAMES, 'dog'], r"image\.jpg: class name 'dog' \(number 6\) is the same as 'dog'"),
        ([*NAMES, '_'], r"image\.jpg: class name '_' is empty"),
    ):
        for _ in range(2):
            with pytest.raises(ValueError, match=message):
                transform(make_results([0], names))
    with pytest.raises(KeyError, match="neither 'tokens_positive' nor 'phrases'"):
        transform(make_results([0], CAPTION))
    with pytest.raises(ValueError, match=r'phrases \[5\], which have no spans'):
        transform(make_results([5], CAPTION, tokens_positive=SPANS))
    with pytest.raises(ValueError, match='probabilities'):
        FiberPrompt(tokenizer_dir, full_prob=0.7, no_negative_prob=0.5)
    with pytest.raises(ValueError, match='num_negatives'):
        FiberPrompt(tokenizer_dir, num_negatives=-1)


def test_pack(tokenizer_dir):
    results = FiberPrompt(tokenizer_dir)(make_results([2], CAPTION, tokens_positive=SPANS))
    results.update(img=np.zeros((4, 4, 3), np.uint8), phrase_boxes=[[[0, 0, 1, 1]]])
    sample = FiberPackInputs()(results)['data_samples']
    assert sample.text == CAPTION
    assert sample.tokens_positive == [[[31, 42]]]
    assert sample.phrase_boxes == [[[0, 0, 1, 1]]]
    assert sample.gt_instances.labels.tolist() == [0]
