"""COCO AP by hand, and against pycocotools used plainly."""

import json

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from fiber_mm.evaluation.metrics.coco import FiberCocoMetric

NAMES = ['cat', 'dog', 'bird']


def write_annotations(path, annotations, num_images=2):
    """Annotations: (image, category id, x, y, w, h)."""
    content = {
        'images': [
            {'id': i, 'file_name': f'{i}.jpg', 'height': 100, 'width': 100}
            for i in range(num_images)
        ],
        'categories': [{'id': 10 + i, 'name': name} for i, name in enumerate(NAMES)],
        'annotations': [
            {'id': i, 'image_id': image, 'category_id': category, 'bbox': box, 'iscrowd': 0,
             'area': box[2] * box[3]}
            for i, (image, category, *box) in enumerate(annotations)
        ],
    }  # fmt: skip
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


def run(metric, samples):
    metric.process({}, samples)
    return metric.evaluate(len(samples))


TRUTH = [(0, 10, 10, 10, 20, 20), (0, 11, 50, 50, 20, 20), (1, 10, 10, 10, 20, 20)]


def test_by_hand(tmp_path):
    """Inclusive corners: x2 = x + w - 1. The annotation with id 0 is matched, too."""
    metric = FiberCocoMetric(
        write_annotations(tmp_path / 'a.json', TRUTH),
        subsets={'unseen': ['dog']},
        rest_of='seen',
        classwise=True,
    )
    metric.dataset_meta = {'classes': tuple(NAMES)}
    first = [([10, 10, 29, 29], 0.9, 0), ([50, 50, 69, 59], 0.8, 1)]  # the dog: IoU 0.5
    metrics = run(metric, [make_sample(0, first), make_sample(1, [])])
    # cat: one of two found, precision 1 up to recall 0.5: 51 of 101 points
    assert metrics['coco/cat_AP50'] == pytest.approx(51 / 101)
    assert metrics['coco/dog_AP50'] == pytest.approx(1)
    assert np.isnan(metrics['coco/bird_AP50'])
    assert metrics['coco/bbox_mAP_50'] == pytest.approx((51 / 101 + 1) / 2)
    assert metrics['coco/bbox_mAP_75'] == pytest.approx(51 / 101 / 2)
    assert metrics['coco/unseen_mAP_50'] == pytest.approx(1)
    assert metrics['coco/unseen_mAP'] == pytest.approx(0.1)  # at the first of ten thresholds
    assert metrics['coco/seen_mAP_50'] == metrics['coco/seen_mAP'] == pytest.approx(51 / 101)


def test_against_plain_pycocotools(tmp_path):
    rng = np.random.default_rng(0)
    truth = [
        (image, int(rng.integers(10, 13)), *(rng.integers(5, 45, 4) + 1).tolist())
        for image in range(4)
        for _ in range(6)
    ]
    path = write_annotations(tmp_path / 'a.json', truth, 4)
    samples, plain = [], []
    for image in range(4):
        predictions = []
        for other, category, x, y, w, h in truth:
            if other == image or rng.random() < 0.2:
                x1, y1, w, h = np.abs(np.array([x, y, w, h]) + rng.integers(-3, 4, 4)) + 1.0
                score = float(rng.random())
                predictions.append(([x1, y1, x1 + w - 1, y1 + h - 1], score, category - 10))
                plain.append(
                    {'image_id': image, 'category_id': category, 'bbox': [x1, y1, w, h],
                     'score': score}
                )  # fmt: skip
        samples.append(make_sample(image, predictions))
    content = json.loads((tmp_path / 'a.json').read_text())
    for annotation in content['annotations']:
        annotation['id'] += 1
    (tmp_path / 'b.json').write_text(json.dumps(content))
    coco = COCO(str(tmp_path / 'b.json'))
    evaluation = COCOeval(coco, coco.loadRes(plain), 'bbox')
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    metric = FiberCocoMetric(path)
    metric.dataset_meta = {'classes': NAMES}
    metrics = run(metric, samples)
    assert 0.1 < evaluation.stats[0] < 0.9
    names = ['mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m']
    values = [metrics[f'coco/bbox_{name}'] for name in names]
    np.testing.assert_allclose(values, evaluation.stats[:5], atol=1e-6)
    assert metrics['coco/bbox_AR@100'] == pytest.approx(evaluation.stats[8])


def test_nothing_detected(tmp_path):
    metric = FiberCocoMetric(write_annotations(tmp_path / 'a.json', TRUTH))
    metrics = run(metric, [make_sample(0, []), make_sample(1, [])])
    assert metrics['coco/bbox_mAP'] == 0


def test_annotations_without_crowds_and_areas(tmp_path):
    path = write_annotations(tmp_path / 'a.json', TRUTH)
    content = json.loads((tmp_path / 'a.json').read_text())
    samples = [make_sample(0, [([10, 10, 29, 29], 0.9, 0)]), make_sample(1, [])]
    wanted = run(FiberCocoMetric(path), samples)
    for annotation in content['annotations']:
        del annotation['iscrowd'], annotation['area']
    (tmp_path / 'b.json').write_text(json.dumps(content))
    np.testing.assert_equal(run(FiberCocoMetric(str(tmp_path / 'b.json')), samples), wanted)


def test_exclusive_corners(tmp_path):
    metric = FiberCocoMetric(
        write_annotations(tmp_path / 'a.json', [(0, 10, 0, 0, 3, 3)]), inclusive=False
    )
    metrics = run(metric, [make_sample(0, [([0, 0, 3, 3], 0.9, 0)])])
    assert metrics['coco/bbox_mAP'] == pytest.approx(1)


def test_classes_in_another_order(tmp_path):
    metric = FiberCocoMetric(write_annotations(tmp_path / 'a.json', TRUTH))
    metric.dataset_meta = {'classes': ('dog', 'cat')}
    with pytest.raises(ValueError, match='in another order'):
        run(metric, [make_sample(0, [])])
    metric.results.clear()
    metric.dataset_meta = {'classes': ('cat', 'bird')}  # a part of the file's classes
    metrics = run(metric, [make_sample(0, [([10, 10, 29, 29], 0.9, 0)])])
    assert metrics['coco/bbox_mAP_50'] == pytest.approx(1)


def test_unknown_subset(tmp_path):
    metric = FiberCocoMetric(
        write_annotations(tmp_path / 'a.json', TRUTH), subsets={'unseen': ['cow']}
    )
    with pytest.raises(ValueError, match="'unseen' has classes that are not evaluated"):
        run(metric, [make_sample(0, [])])
    with pytest.raises(FileNotFoundError, match='no annotation file'):
        FiberCocoMetric(str(tmp_path / 'missing.json'))
