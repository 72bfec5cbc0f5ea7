"""Overlaps, hits and recalls by hand."""

import numpy as np
import pytest

from fiber_mm.evaluation.functional.grounding import (
    box_giou,
    box_iou,
    expression_hits,
    mean_hits,
    merge_boxes,
    parse_entity_boxes,
    parse_sentence,
    phrase_hits,
    phrases_with_boxes,
)


def test_iou_without_plus_one():
    boxes = [[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30], [0, 0, 0, 0]]
    expected = [1, 50 / 150, 0, 0]
    np.testing.assert_allclose(box_iou(boxes, [[0, 0, 10, 10]])[:, 0], expected)
    assert box_iou([[1, 1, 1, 1]], [[1, 1, 1, 1]]).tolist() == [[0]]  # no area, no overlap


def test_giou():
    # union 150, hull 150; then apart: union 200, hull 30 x 10
    values = box_giou([[5, 0, 15, 10], [20, 0, 30, 10], [0, 0, 10, 10]], [[0, 0, 10, 10]])[:, 0]
    np.testing.assert_allclose(values, [1 / 3, -100 / 300, 1])
    # union 25 + 100 - 25, hull 100: GIoU = IoU for a box inside
    np.testing.assert_allclose(box_giou([[0, 0, 5, 5]], [[0, 0, 10, 10]]), [[0.25]])


def test_merge():
    assert merge_boxes([[0, 5, 2, 6], [1, 1, 9, 2]]).tolist() == [[0, 1, 9, 6]]
    assert merge_boxes([[1, 2, 3, 4]]).tolist() == [[1, 2, 3, 4]]


def test_any_box_and_merged_box():
    true_boxes = [[0, 0, 10, 10], [90, 0, 100, 10]]
    whole = [0, 0, 100, 10]
    assert phrase_hits([[0, 0, 10, 10]], true_boxes, (1,)).tolist() == [True]
    assert phrase_hits([[0, 0, 10, 10]], true_boxes, (1,), merged=True).tolist() == [False]
    assert phrase_hits([whole], true_boxes, (1,)).tolist() == [False]
    assert phrase_hits([whole], true_boxes, (1,), merged=True).tolist() == [True]


def test_ranks():
    far, near = [50, 50, 60, 60], [0, 0, 10, 5]  # IoU of near is exactly 0.5
    boxes = [far] * 5 + [near]
    hits = phrase_hits(boxes, [[0, 0, 10, 10]], (1, 5, 6, 10, -1))
    assert hits.tolist() == [False, False, True, True, True]
    assert phrase_hits([], [[0, 0, 10, 10]], (1, -1)).tolist() == [False, False]
    with pytest.raises(ValueError, match='without true boxes'):
        phrase_hits([near], [])


def test_expressions():
    true_box = [0, 0, 10, 10]
    # IoU 60 / 110 = 0.545, GIoU = that - 10 / 120 = 0.46
    shifted = [2, 1, 12, 11]
    iou = box_iou([shifted], [true_box])[0, 0]
    assert iou == pytest.approx(72 / 128)
    assert box_giou([shifted], [true_box])[0, 0] == pytest.approx(72 / 128 - 4 / 132)
    tight = [3, 1, 13, 11]  # IoU 63 / 137 < 0.5
    assert expression_hits([tight, shifted], true_box, (1, 2)).tolist() == [False, True]
    between = [2, 2, 12, 11.3]  # IoU above, GIoU below the threshold
    assert box_iou([between], [true_box])[0, 0] == pytest.approx(64 / 129)
    assert expression_hits([], true_box).tolist() == [False] * 3


def test_giou_is_stricter():
    true_box, box = [0, 0, 10, 10], [3, 0, 13, 9.9]
    wide = [0, 0, 15, 14]
    iou, giou = box_iou([wide], [true_box])[0, 0], box_giou([wide], [true_box])[0, 0]
    assert iou == giou == pytest.approx(100 / 210)
    diagonal = [1.5, 1.5, 11.5, 11.5]
    iou, giou = box_iou([diagonal], [true_box])[0, 0], box_giou([diagonal], [true_box])[0, 0]
    assert iou == pytest.approx(72.25 / 127.75)  # 0.566
    assert giou == pytest.approx(72.25 / 127.75 - 4.5 / 132.25)  # 0.532
    apart = [1.7, 1.7, 11.7, 11.7]
    assert box_iou([apart], [true_box])[0, 0] > 0.5 > box_giou([apart], [true_box])[0, 0] - 0.01
    corner = [1.8, 1.8, 11.8, 11.8]  # IoU 67.24 / 132.76 = 0.506, GIoU 0.46
    assert expression_hits([corner], true_box, (1,)).tolist() == [False]
    assert expression_hits([corner], true_box, (1,), generalised=False).tolist() == [True]
    assert not expression_hits([box], true_box, (1,), threshold=0.99).any()


def test_means_by_group():
    hits = [np.array([1, 1]), np.array([0, 1]), np.array([0, 0])]
    means = mean_hits(hits, [['people'], ['people', 'other'], []])
    assert {name: value.tolist() for name, value in means.items()} == {
        'all': [1 / 3, 2 / 3],
        'people': [0.5, 1],
        'other': [0, 1],
    }
    assert mean_hits([]) == {}


def test_entities_files():
    line = '[/EN#1/people/other Two men] in [/EN#2/scene the yard] [/EN#0/notvisual it] .'
    phrases = parse_sentence(line)
    assert [phrase.text for phrase in phrases] == ['Two men', 'the yard', 'it']
    assert [phrase.entity for phrase in phrases] == ['1', '2', '0']
    assert phrases[0].types == ('people', 'other')
    box = '<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax></bndbox>'
    xml = (
        f'<annotation><object><name>1</name>{box}</object><object><name>1</name><name>3</name>'
        f'{box}</object><object><name>2</name><scene>1</scene></object></annotation>'
    )
    boxes = parse_entity_boxes(xml)
    assert {name: rows.tolist() for name, rows in boxes.items()} == {
        '1': [[1, 2, 3, 4], [1, 2, 3, 4]],
        '3': [[1, 2, 3, 4]],
    }
    assert [phrase.text for phrase, _ in phrases_with_boxes(line, boxes)] == ['Two men']
