"""Ground-truth boxes."""

import numpy as np
import pytest
from mmdet.datasets.transforms import RandomFlip_GLIP
from mmdet.structures.bbox import HorizontalBoxes

from fiber_mm.datasets.transforms.boxes import DropCounter, FiberInclusiveBoxes


def make_results(boxes):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    return {
        'img_path': 'some/image.jpg',
        'img_shape': (50, 100),
        'gt_bboxes': HorizontalBoxes(boxes),
        'gt_bboxes_labels': np.arange(len(boxes)),
        'gt_ignore_flags': np.zeros(len(boxes), bool),
    }


def test_inclusive_and_clipped():
    results = FiberInclusiveBoxes()(make_results([[10, 10, 20, 30], [-5, 40, 120, 60]]))
    assert results['gt_bboxes'].tensor.tolist() == [[10, 10, 19, 29], [0, 40, 99, 49]]
    as_it_is = FiberInclusiveBoxes(offset=0)(make_results([[10, 10, 20, 30]]))
    assert as_it_is['gt_bboxes'].tensor.tolist() == [[10, 10, 20, 30]]


def test_boxes_without_area_go():
    boxes = [[1, 1, 2, 9], [5, 5, 9, 9], [100, 5, 120, 9], [9, 9, 5, 12]]
    transform = FiberInclusiveBoxes()
    results = transform(make_results(boxes))
    assert results['gt_bboxes'].tensor.tolist() == [[5, 5, 8, 8]]
    assert results['gt_bboxes_labels'].tolist() == [1]
    assert len(results['gt_ignore_flags']) == 1
    assert transform.dropped.total == 3


def test_no_boxes():
    assert len(FiberInclusiveBoxes()(make_results([]))['gt_bboxes']) == 0
    assert 'gt_bboxes' not in FiberInclusiveBoxes()({'img_shape': (5, 5)})


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_boxes_that_are_no_numbers(value):
    with pytest.raises(ValueError, match=r'some/image\.jpg: box 1 is'):
        FiberInclusiveBoxes()(make_results([[1, 1, 5, 5], [1, value, 5, 5]]))


def test_flip_of_inclusive_boxes():
    """mmdet's GLIP flip is the original's: x1' = W - 1 - x2 ... in pixels, both corners inside."""
    results = make_results([[0, 0, 9, 9]])
    results['img'] = np.zeros((50, 100, 3), np.uint8)
    flipped = RandomFlip_GLIP(prob=1.0)(results)
    assert flipped['gt_bboxes'].tensor.tolist() == [[90, 0, 99, 9]]


def test_counter_logs_seldom(monkeypatch):
    messages = []
    monkeypatch.setattr(
        'fiber_mm.datasets.transforms.boxes.print_log', lambda text, logger: messages.append(text)
    )
    counter = DropCounter('boxes')
    counter.add(0, 'a')
    for index in range(25):
        counter.add(1, f'image {index}')
    assert [message.split()[0] for message in messages] == ['1', '10']
    assert 'image 9' in messages[1]
