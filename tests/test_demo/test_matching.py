import numpy as np

from fiber_mm.demo.matching import match


def test_one_prediction_a_box():
    true = np.array([[0, 0, 10, 10], [20, 20, 30, 30]])
    boxes = np.array([[0, 0, 10, 9], [0, 0, 10, 10], [20, 20, 30, 30]])
    right, found = match(boxes, ['cat', 'cat', 'dog'], true, ['cat', 'cat'])
    assert right == [True, False, False]
    assert found == [True, False]


def test_nothing_predicted_or_nothing_there():
    none = np.zeros((0, 4))
    assert match(none, [], np.ones((1, 4)), ['cat']) == ([], [False])
    assert match(np.ones((1, 4)), ['cat'], none, []) == ([False], [])
