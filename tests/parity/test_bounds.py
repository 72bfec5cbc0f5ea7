"""The comparisons themselves: they must notice what they are for."""

import numpy as np
import pytest
import torch

from .bounds import FEATURES, GRADIENT, LOSS, Comparison, matched_share, no_gradient, spread


def test_error_is_relative_to_the_spread():
    want = np.random.RandomState(0).standard_normal(1000) * 5
    cmp = Comparison('x')
    cmp.close('near', torch.from_numpy(want) + 5e-5, want, FEATURES)
    assert cmp.rows[0][1] == pytest.approx(5e-5 / want.std(ddof=1))
    cmp.finish()
    cmp.close('far', want + 2e-3, want, FEATURES)
    with pytest.raises(AssertionError, match='1 of 2 over their bound\n  far: 0.0004'):
        cmp.finish()


def test_spread_of_a_few_values_is_not_less_than_their_size():
    assert spread(np.array([3.0, 3.0])) == 3.0
    assert spread(np.array([3.0, 3.0]), std=0.5) == 0.5


def test_bf16_uses_root_mean_squares():
    want = np.random.RandomState(0).standard_normal(1000)
    off = want.copy()
    off[0] += 0.1  # one large error is no root mean square
    cmp = Comparison('x', bf16=True)
    cmp.close('a', off, want, FEATURES)
    cmp.finish()
    cmp.close('b', want + 0.1, want, FEATURES)
    with pytest.raises(AssertionError, match='b: 0.1'):
        cmp.finish()


def test_nan_wrong_shape_and_nothing_fail():
    want = np.ones(3)
    for got in (np.array([1, 1, np.nan]), np.ones(4)):
        cmp = Comparison('x')
        cmp.close('a', got, want, GRADIENT)
        with pytest.raises(AssertionError):
            cmp.finish()
    with pytest.raises(AssertionError, match='nothing was compared'):
        Comparison('x').finish()


def test_equal_counts_differences():
    cmp = Comparison('x')
    cmp.equal('ids', torch.tensor([1, 2, 3]), np.array([1, 2, 4]))
    assert cmp.rows[0][1] == 1
    cmp.relative('loss', 1.00001, 1.0, LOSS)
    assert cmp.worst[0] == 'ids'
    with pytest.raises(AssertionError, match='ids'):
        cmp.finish()


def test_detections_are_matched_in_any_order_and_once():
    boxes = np.array([[0, 0, 9, 9], [20, 20, 29, 29], [0, 0, 9, 9]], dtype=np.float32)
    scores = np.array([0.9, 0.8, 0.7], dtype=np.float32)
    labels = np.array([1, 2, 1])
    order = [2, 0, 1]
    reference = boxes, scores, labels
    assert matched_share(boxes[order] + 0.01, scores[order], labels[order], *reference) == 1
    assert matched_share(boxes, scores, np.array([1, 3, 1]), *reference) == pytest.approx(2 / 3)
    assert matched_share(boxes + 0.03, scores, labels, *reference) == 0
    assert matched_share(boxes, scores + 2e-4, labels, *reference) == 0
    assert matched_share(boxes[[0, 0]], scores[[0, 0]], labels[[0, 0]], *reference) == (
        pytest.approx(1 / 3)
    )
    assert matched_share(boxes[:0], scores[:0], labels[:0], *reference) == 0
    assert matched_share(*(2 * (boxes[:0], scores[:0], labels[:0]))) == 1


def test_no_gradient():
    assert no_gradient(None)
    assert no_gradient(torch.zeros(3))
    assert not no_gradient(torch.tensor([0.0, 1e-30]))
