"""LVIS fixed AP by hand."""

import json

import numpy as np
import pytest
import torch
from shapes_fixture import shapes_root  # noqa: F401

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


def run(metric, *samples, classes=('a', 'b', 'c')):
    metric.dataset_meta = {'classes': classes}
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


# -- against an independent evaluation, written out slowly --------------------------------------

AREAS = {'': (0, 1e10), 's': (0, 32**2), 'm': (32**2, 96**2), 'l': (96**2, 1e10)}
THRESHOLDS = [0.5 + 0.05 * i for i in range(10)]


def overlap(a, b):
    """IoU of two boxes xywh."""
    wide = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    high = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    common = max(wide, 0) * max(high, 0)
    return common / (a[2] * a[3] + b[2] * b[3] - common)


def judge(detections, truth, threshold, area, exhaustive):
    """[(score, hit)] of one image and category; detections that do not count are left out."""
    low, high = area
    truth = sorted(truth, key=lambda g: not low <= g['area'] <= high)  # those that count first
    taken, out = set(), []
    for score, box in detections:
        best, found = threshold, None
        for i, g in enumerate(truth):
            ignored = not low <= g['area'] <= high
            if i in taken:
                continue
            if found is not None and ignored and low <= truth[found]['area'] <= high:
                break
            if overlap(box, g['bbox']) >= best:
                best, found = overlap(box, g['bbox']), i
        if found is not None:
            taken.add(found)
            if low <= truth[found]['area'] <= high:
                out.append((score, True))
        elif exhaustive and low <= box[2] * box[3] <= high:
            out.append((score, False))
    return out


def precision_at_recalls(judged, positives):
    """Mean of the interpolated precision at recalls 0, 0.01, ..., 1."""
    judged = sorted(judged, key=lambda pair: -pair[0])
    hits, points = 0, []
    for n, (_, hit) in enumerate(judged, 1):
        hits += hit
        points.append((hits / positives, hits / n))
    recalls = np.linspace(0, 1, 101)
    return np.mean([max((p for r, p in points if r >= recall), default=0) for recall in recalls])


def slow_lvis(content, samples, topk):
    """Fixed AP by the definitions of LVIS (Gupta et al. 2019) and Dave et al. 2021."""
    categories = sorted(content['categories'], key=lambda c: c['id'])
    pooled = [[] for _ in categories]
    for sample in samples:
        found = sample['pred_instances']
        for box, score, label in zip(
            found['bboxes'].tolist(), found['scores'].tolist(), found['labels'].tolist()
        ):
            x1, y1, x2, y2 = box
            pooled[label].append((score, sample['img_id'], [x1, y1, x2 - x1, y2 - y1]))
    scores = {}  # (category, threshold, area) -> AP
    for category, detections in zip(categories, pooled):
        detections = sorted(detections, key=lambda d: -d[0])[:topk]
        for name, area in AREAS.items():
            judged = {threshold: [] for threshold in THRESHOLDS}
            positives = 0
            for image in content['images']:
                truth = [
                    g for g in content['annotations']
                    if (g['image_id'], g['category_id']) == (image['id'], category['id'])
                ]  # fmt: skip
                positives += sum(area[0] <= g['area'] <= area[1] for g in truth)
                if not truth and category['id'] not in image['neg_category_ids']:
                    continue
                here = [(s, box) for s, img_id, box in detections if img_id == image['id']]
                exhaustive = category['id'] not in image['not_exhaustive_category_ids']
                for threshold in THRESHOLDS:
                    judged[threshold] += judge(here, truth, threshold, area, exhaustive)
            if positives:
                for threshold in THRESHOLDS:
                    scores[category['id'], round(threshold, 2), name] = precision_at_recalls(
                        judged[threshold], positives
                    )

    def mean(area='', threshold=None, frequency=None):
        group = {c['id'] for c in categories if frequency in (None, c['frequency'])}
        chosen = [
            v for (c, t, a), v in scores.items()
            if c in group and threshold in (None, t) and a == area
        ]  # fmt: skip
        return np.mean(chosen)

    return {
        'AP': mean(), 'AP50': mean(threshold=0.5), 'AP75': mean(threshold=0.75),
        'APs': mean('s'), 'APm': mean('m'), 'APl': mean('l'),
        'APr': mean(frequency='r'), 'APc': mean(frequency='c'), 'APf': mean(frequency='f'),
    }  # fmt: skip


def noisy_detections(content, rng):
    """Boxes near the true ones, doubled, missed, of wrong classes, and at random."""
    ids = sorted(c['id'] for c in content['categories'])
    samples = []
    for image in content['images']:
        predictions = []
        truth = [g for g in content['annotations'] if g['image_id'] == image['id']]
        for g in truth:
            x, y, w, h = g['bbox']
            for _ in range(rng.integers(0, 4)):
                shift = rng.normal(0, 0.12, 4) * [w, h, w, h]
                box = np.array([x, y, x + w, y + h]) + shift
                label = (
                    ids.index(g['category_id']) if rng.random() < 0.8 else rng.integers(len(ids))
                )
                predictions.append((box.tolist(), float(np.float32(rng.random())), int(label)))
        for _ in range(30):
            corner = rng.uniform(0, 300, 2)
            box = [*corner, *(corner + rng.uniform(15, 180, 2))]
            label = int(rng.integers(len(ids)))
            predictions.append((box, float(np.float32(rng.random())), label))
        samples.append(make_sample(image['id'], predictions))
    return samples


@pytest.mark.parametrize(('seed', 'topk'), [(0, 10000), (1, 10000), (2, 3)])
def test_against_a_slow_evaluation_on_shapes(shapes_root, tmp_path, seed, topk):  # noqa: F811
    content = json.loads((shapes_root / 'annotations/lvis_v1_val.json').read_text())
    rng = np.random.default_rng(seed)
    ids = [category['id'] for category in content['categories']]
    for g in content['annotations']:  # large ones, too
        g['bbox'], g['area'] = [3 * v for v in g['bbox']], 9 * g['area']
    for category in content['categories']:
        category['frequency'] = 'rcf'[rng.integers(3)]
    for image in content['images']:  # Shapes are annotated exhaustively; LVIS is not
        image['height'], image['width'] = 3 * image['height'], 3 * image['width']
        present = {g['category_id'] for g in content['annotations'] if g['image_id'] == image['id']}
        image['not_exhaustive_category_ids'] = [c for c in sorted(present) if rng.random() < 0.3]
        absent = sorted(set(ids) - present)
        image['neg_category_ids'] = rng.choice(absent, 60, replace=False).tolist()
    file = tmp_path / 'lvis.json'
    file.write_text(json.dumps(content))
    samples = noisy_detections(content, rng)
    names = [c['name'] for c in sorted(content['categories'], key=lambda c: c['id'])]
    metrics = run(FiberLVISFixedAPMetric(str(file), topk=topk), *samples, classes=names)
    wanted = slow_lvis(content, samples, topk)
    assert 0.05 < wanted['AP'] < 0.9
    assert metrics == pytest.approx(wanted, abs=1e-9)
