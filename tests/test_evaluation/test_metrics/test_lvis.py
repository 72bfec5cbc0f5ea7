"""LVIS fixed AP by hand."""

import json

import numpy as np
import pytest
import torch

from fiber_mm.evaluation.metrics.lvis import FiberLVISFixedAPMetric, keep_best

BOX, OTHER, FAR = [10, 10, 30, 30], [50, 50, 70, 70], [80, 80, 95, 95]


@pytest.fixture
def ann_file(tmp_path):
    """Categories listed out of order; rare 'a' (id 1), common 'b' (2), frequent 'c' (5)."""
    content = {
        'images': [
            {'id': 1, 'height': 100, 'width': 100, 'neg_category_ids': [2],
             'not_exhaustive_category_ids': []},
            {'id': 2, 'height': 100, 'width': 100, 'neg_category_ids': [],
             'not_exhaustive_category_ids': [1]},
        ],
        'categories': [
            {'id': 5, 'name': 'c', 'frequency': 'f'},
            {'id': 1, 'name': 'a', 'frequency': 'r'},
            {'id': 2, 'name': 'b', 'frequency': 'c'},
        ],
        'annotations': [
            {'id': i, 'image_id': image, 'category_id': category, 'area': 400,
             'bbox': [box[0], box[1], box[2] - box[0], box[3] - box[1]]}
            for i, (image, category, box) in enumerate([(1, 1, BOX), (2, 1, BOX), (2, 2, BOX)])
        ],
    }  # fmt: skip
    path = tmp_path / 'lvis.json'
    path.write_text(json.dumps(content))
    return str(path)


def make_sample(img_id, predictions):
    boxes, scores, labels = zip(*predictions) if predictions else ([], [], [])
    return {
        'img_id': img_id,
        'pred_instances': {
            'bboxes': torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            'scores': torch.tensor(scores),
            'labels': torch.tensor(labels, dtype=torch.int64),
        },
    }


def run(metric, *samples):
    metric.dataset_meta = {'classes': ('a', 'b', 'c')}
    metric.process({}, list(samples))
    return {k.split('/')[1]: v for k, v in metric.evaluate(len(samples)).items()}


def test_labels_follow_category_ids(ann_file):
    metrics = run(
        FiberLVISFixedAPMetric(ann_file),
        make_sample(1, [(BOX, 0.9, 0)]),
        make_sample(2, [(BOX, 0.9, 0), (BOX, 0.8, 1)]),
    )
    values = [metrics[name] for name in ('AP', 'AP50', 'AP75', 'APs', 'APr', 'APc')]
    np.testing.assert_allclose(values, 1)
    assert np.isnan(metrics['APf'])  # no true boxes


def test_federated_rules(ann_file):
    """Mistakes count only where the image is annotated for the class."""
    right = [(BOX, 0.5, 0)], [(BOX, 0.5, 0), (BOX, 0.5, 1)]
    # 'a' in image 2 is not exhaustive, 'c' is annotated nowhere: neither counts
    harmless = [(FAR, 0.9, 2)], [(FAR, 0.9, 0), (FAR, 0.9, 2)]
    metrics = run(
        FiberLVISFixedAPMetric(ann_file),
        make_sample(1, right[0] + harmless[0]),
        make_sample(2, right[1] + harmless[1]),
    )
    assert metrics['AP'] == pytest.approx(1)
    # image 1 is known to have no 'b': precision 1/2 at every recall
    metrics = run(
        FiberLVISFixedAPMetric(ann_file),
        make_sample(1, [*right[0], (FAR, 0.9, 1)]),
        make_sample(2, right[1]),
    )
    assert metrics['APc'] == pytest.approx(0.5)
    # a wrong 'a' in image 1, exhaustive there: 1 of 2, then 2 of 3
    metrics = run(
        FiberLVISFixedAPMetric(ann_file),
        make_sample(1, [*right[0], (FAR, 0.9, 0)]),
        make_sample(2, right[1]),
    )
    assert metrics['APr'] == pytest.approx(2 / 3)


def test_only_the_best_of_a_class_count(ann_file):
    samples = [
        make_sample(1, [(FAR, 0.9, 0), (BOX, 0.5, 0)]),
        make_sample(2, [(BOX, 0.6, 0), (BOX, 0.1, 1)]),
    ]
    assert run(FiberLVISFixedAPMetric(ann_file, topk=1), *samples)['APr'] == 0
    # two of three: precision 1/2 up to recall 1/2, that is 51 of 101 points
    metrics = run(FiberLVISFixedAPMetric(ann_file, topk=2), *samples)
    assert metrics['APr'] == pytest.approx(0.5 * 51 / 101)
    assert metrics['APc'] == pytest.approx(1)


def test_keep_best_against_a_loop():
    rng = np.random.default_rng(0)
    records = [
        {'boxes': rng.random((n, 4)), 'scores': rng.integers(0, 9, n) / 9,
         'labels': rng.integers(0, 3, n)}
        for n in (5, 0, 9, 4)
    ]  # fmt: skip
    rows = [
        (int(label), -score, image, place)
        for image, record in enumerate(records)
        for place, (label, score) in enumerate(zip(record['labels'], record['scores']))
    ]
    expected = set()
    for label in range(3):
        expected |= {row[2:] for row in sorted(row for row in rows if row[0] == label)[:3]}
    boxes = {
        (i, p): r['boxes'][p].tolist()
        for i, r in enumerate(records)
        for p in range(len(r['scores']))
    }
    keep_best(records, 3)
    kept = [box for record in records for box in record['boxes'].tolist()]
    assert kept == [boxes[key] for key in sorted(expected)]
    keep_best([], 3)


def test_buffer_is_emptied(ann_file, monkeypatch):
    monkeypatch.setattr('fiber_mm.evaluation.metrics.lvis.BUFFER', 3)
    metric = FiberLVISFixedAPMetric(ann_file, topk=2)
    for image in (1, 2):
        metric.process({}, [make_sample(image, [(BOX, 0.1 * i, 0) for i in range(1, 5)])])
    assert sum(len(record['scores']) for record in metric.results) == 2


def test_nothing_detected(ann_file):
    assert run(FiberLVISFixedAPMetric(ann_file), make_sample(1, []), make_sample(2, []))['AP'] == 0
