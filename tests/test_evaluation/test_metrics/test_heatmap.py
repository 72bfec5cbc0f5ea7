"""The metric of maps on cases worked out by hand."""

import pytest
import torch

from fiber_mm.evaluation.metrics.heatmap import FiberHeatmapMetric
from fiber_mm.registry import METRICS


def spot(x1, y1, x2, y2, size=(8, 10)):
    """A map that is 1 in a box, with a weak foot beside it."""
    heatmap = torch.zeros(size)
    heatmap[y2 - 1, :x1] = 0.4
    heatmap[y1:y2, x1:x2] = 1
    return heatmap


def sample(maps, phrase_boxes, **meta):
    return dict(
        img_path='12.jpg', pred_heatmaps=torch.stack(maps), phrase_boxes=phrase_boxes, **meta
    )


def run(samples, **settings):
    metric = FiberHeatmapMetric(**settings)
    for one in samples:
        metric.process({}, [one])
    return metric.evaluate(len(samples))


def test_by_hand():
    samples = [
        sample(
            [spot(2, 2, 6, 6), spot(2, 2, 6, 6), torch.zeros(8, 10)],
            [
                [[2, 2, 6, 6]],  # both hit: 16 of 80 pixels
                [[0, 0, 1, 1], [3, 3, 10, 8]],  # peak hits the second; IoU 9 / (16 + 35 - 9): miss
                [[0, 0, 10, 8]],  # a level map: missed, whatever the box
            ],
            unseen=False,
        ),
        sample(
            [spot(5, 0, 9, 4), spot(5, 0, 9, 4)],
            [
                [[0, 4, 10, 8]],  # 40 of 80 pixels; the peak is outside
                [],  # a phrase without true boxes is not counted
            ],
            unseen=True,
        ),
    ]
    metrics = run(samples, thresholds=(0.3, 0.5))
    assert metrics['heatmap/pointing'] == 2 / 4
    assert metrics['heatmap/pointing_seen'] == pytest.approx(2 / 3)
    assert metrics['heatmap/pointing_unseen'] == 0
    chances = [16 / 80, 36 / 80, 1, 40 / 80]
    assert metrics['heatmap/pointing_chance'] == pytest.approx(sum(chances) / 4)
    assert metrics['heatmap/pointing_chance_unseen'] == pytest.approx(0.5)
    # The centre is pixel (4, 5): in the box 2..6, in the box 3..10, in the image, in the half.
    assert metrics['heatmap/pointing_centre'] == 1
    assert metrics['heatmap/box_recall@0.5'] == 1 / 4
    # From 0.3 on the foot belongs to it: x 0 to 6, y 2 to 6, IoU 16 / 24, still a hit.
    assert metrics['heatmap/box_recall@0.3'] == 1 / 4
    assert run(samples, thresholds=(0.3,), iou_thr=0.7)['heatmap/box_recall@0.3'] == 0
    # The whole image: 0.2, 35 / 80, 1, 0.5 of it.
    assert metrics['heatmap/box_recall_image'] == 2 / 4
    assert metrics['heatmap/no_peak'] == 1 / 4


def test_nothing_to_evaluate():
    assert run([sample([spot(0, 0, 1, 1)], [[]])]) == {}


def test_faults():
    metric = METRICS.build(dict(type='FiberHeatmapMetric'))
    with pytest.raises(ValueError, match=r'12.jpg: 1 maps for 2 phrases'):
        metric.process({}, [sample([spot(0, 0, 1, 1)], [[], []])])
    with pytest.raises(KeyError, match='FiberHeatmapModel'):
        metric.process({}, [dict(img_path='12.jpg', phrase_boxes=[[]])])
    with pytest.raises(KeyError, match='phrase_boxes'):
        metric.process({}, [dict(img_path='12.jpg')])
    with pytest.raises(ValueError, match=r'\(0, 1\], got \[1.5\]'):
        FiberHeatmapMetric(thresholds=(0.5, 1.5))
