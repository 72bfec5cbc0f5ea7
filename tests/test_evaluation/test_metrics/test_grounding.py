"""Metrics of phrases and expressions."""

import pytest
import torch

from fiber_mm.evaluation.metrics.grounding import FiberFlickr30kMetric, FiberRefExpMetric
from fiber_mm.registry import METRICS

HIT, MISS = [0.0, 0, 10, 10], [50.0, 50, 60, 60]


def make_sample(predictions, phrase_boxes, **meta):
    """Predictions: (box, score, label)."""
    boxes, scores, labels = zip(*predictions) if predictions else ([], [], [])
    return {
        'img_path': 'images/12.jpg',
        'img_id': 12,
        'phrase_boxes': phrase_boxes,
        'pred_instances': {
            'bboxes': torch.tensor(boxes).reshape(-1, 4),
            'scores': torch.tensor(scores),
            'labels': torch.tensor(labels, dtype=torch.int64),
        },
        **meta,
    }


def run(metric, samples):
    for sample in samples:  # in batches of one and of several the same
        metric.process({}, [sample])
    return metric.evaluate(len(samples))


def test_flickr_recall():
    samples = [
        # phrase 0: hit at rank 2 (scores are not sorted); phrase 1: nothing predicted
        make_sample([(HIT, 0.3, 0), (MISS, 0.9, 0)], [[HIT], [HIT]], unseen=False),
        # hit by either of two boxes; a phrase without truth does not count
        make_sample([(HIT, 0.5, 1)], [[], [MISS, HIT]], unseen=True),
        make_sample([], [[HIT]], unseen=True),
    ]
    metrics = run(FiberFlickr30kMetric(topk=(1, 5, -1)), samples)
    assert metrics['flickr30k/R@1'] == pytest.approx(1 / 4)
    assert metrics['flickr30k/R@5'] == pytest.approx(2 / 4)
    assert metrics['flickr30k/upper_bound'] == pytest.approx(2 / 4)
    assert metrics['flickr30k/R@1_unseen'] == pytest.approx(1 / 2)
    assert metrics['flickr30k/R@1_seen'] == 0


def test_flickr_merged():
    sample = make_sample([([0.0, 0, 60, 60], 0.5, 0)], [[HIT, MISS]])
    assert run(FiberFlickr30kMetric(topk=(1,), merge_boxes=True), [sample])['flickr30k/R@1'] == 1
    assert run(FiberFlickr30kMetric(topk=(1,)), [sample])['flickr30k/R@1'] == 0


def test_flickr_against_entities(tmp_path):
    (tmp_path / 'Annotations').mkdir()
    (tmp_path / 'Sentences').mkdir()
    objects = ''.join(
        f'<object><name>{name}</name><bndbox><xmin>0</xmin><ymin>0</ymin><xmax>{x}</xmax>'
        '<ymax>10</ymax></bndbox></object>'
        for name, x in (('7', 10), ('8', 40))
    )
    (tmp_path / 'Annotations' / '12.xml').write_text(f'<annotation>{objects}</annotation>')
    (tmp_path / 'Sentences' / '12.txt').write_text(
        'nothing here\n[/EN#7/people A man] on [/EN#9/scene grass] with [/EN#8/other a dog]\n'
    )
    metric = FiberFlickr30kMetric(topk=(1,), entities_root=str(tmp_path))
    # the truth of the file is used, that of the sample only counted
    sample = make_sample([(HIT, 0.5, 0), (HIT, 0.5, 1)], [[MISS], [MISS]], sentence_id=1)
    metrics = run(metric, [sample])
    assert metrics['flickr30k/R@1'] == 0.5
    assert metrics['flickr30k/R@1_people'] == 1
    assert metrics['flickr30k/R@1_other'] == 0
    with pytest.raises(ValueError, match='has 2 phrases with boxes .* but 1 in'):
        run(metric, [make_sample([], [[HIT]], sentence_id=1)])
    with pytest.raises(ValueError, match='has 2 sentences'):
        run(metric, [make_sample([], [[HIT]], sentence_id=5)])
    with pytest.raises(FileNotFoundError, match='no folder Annotations'):
        FiberFlickr30kMetric(entities_root=str(tmp_path / 'Sentences'))


def test_expressions():
    samples = [
        make_sample([(HIT, 0.9, 0)], [[HIT]], dataset_name='refcoco', unseen=False),
        make_sample([(MISS, 0.9, 0), (HIT, 0.2, 0)], [[HIT]], dataset_name='refcoco', unseen=True),
        make_sample([], [[HIT]], dataset_name='refcoco+', unseen=True),
        make_sample([(HIT, 0.9, 1)], [[HIT]], dataset_name='refcoco+', unseen=True),
    ]
    metrics = run(FiberRefExpMetric(topk=(1, 5)), samples)
    assert metrics['refexp/precision@1'] == 0.25
    assert metrics['refexp/precision@5'] == 0.5
    assert metrics['refexp/refcoco_precision@1'] == 0.5
    assert metrics['refexp/refcoco+_precision@5'] == 0
    assert metrics['refexp/seen_precision@1'] == 1
    assert metrics['refexp/unseen_precision@5'] == pytest.approx(1 / 3)
    assert metrics['refexp/mean_precision'] == pytest.approx((0.5 + 1 + 0 + 0) / 4)


def test_expressions_without_data_set_name():
    metrics = run(FiberRefExpMetric(topk=(1,)), [make_sample([(HIT, 0.9, 0)], [[HIT]])])
    assert metrics == {'refexp/precision@1': 1, 'refexp/mean_precision': 1}


@pytest.mark.parametrize('name', ['FiberFlickr30kMetric', 'FiberRefExpMetric'])
def test_missing_truth(name):
    sample = make_sample([], [[HIT]])
    del sample['phrase_boxes']
    with pytest.raises(KeyError, match=r"images/12\.jpg has no 'phrase_boxes'"):
        METRICS.build({'type': name}).process({}, [sample])


def test_expression_without_box():
    with pytest.raises(ValueError, match='no true box'):
        FiberRefExpMetric().process({}, [make_sample([], [[]])])
