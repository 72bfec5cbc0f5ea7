"""Peaks and boxes of maps, by hand."""

import numpy as np
import pytest

from fiber_mm.evaluation.functional import box_around_peak, hits_of_box, peak, pixels_in_boxes

#    columns: 0    1    2    3    4
MAP = np.array(
    [
        [0.0, 0.0, 0.0, 0.0, 0.9],
        [0.0, 0.6, 0.5, 0.0, 0.0],
        [0.0, 0.4, 1.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.5, 0.2],
    ]
)


def test_peak():
    assert peak(MAP) == (2, 2)
    assert peak(np.zeros((3, 4))) is None
    assert peak(np.eye(3)[:1]) == (0, 0)


def test_the_peak_of_a_plateau_is_its_middle():
    heatmap = np.zeros((7, 9))
    heatmap[0:3, 4:9] = 1
    heatmap[1, 4:6] -= 1e-9  # rounding
    heatmap[6, 0] = 1  # another plateau, further down
    assert peak(heatmap) == (1, 6)
    ring = np.ones((5, 5))
    ring[1:4, 1:4] = 0.5  # its middle is none of its pixels
    row, column = peak(ring)
    assert ring[row, column] == 1


def test_boxes_of_maps():
    # 0.5 and more around the peak: (1, 1), (1, 2), (2, 2), and by its corner (3, 3); not 0.9.
    assert box_around_peak(MAP, 0.5).tolist() == [1, 1, 4, 4]
    assert box_around_peak(MAP, 0.55).tolist() == [1, 1, 3, 3]
    assert box_around_peak(MAP, 1.0).tolist() == [2, 2, 3, 3]
    assert box_around_peak(MAP * 7, 0.55).tolist() == [1, 1, 3, 3]  # a share of the maximum
    assert box_around_peak(np.zeros((2, 2))) is None


def test_pixels_are_judged_by_their_centres():
    # x 0.5 to 2.4 has the centres 0.5 and 1.5; y 1 to 3 those of rows 1 and 2
    inside = pixels_in_boxes([[0.5, 1, 2.4, 3]], 4, 5)
    assert inside.sum() == 4
    assert inside[1:3, 0:2].all()
    both = pixels_in_boxes([[0.5, 1, 2.4, 3], [1, 0, 2, 4]], 4, 5)
    assert both.sum() == 4 + 4 - 2
    assert pixels_in_boxes([], 4, 5).sum() == 0


def test_hits_of_boxes():
    assert hits_of_box([0, 0, 2, 1], [[5, 5, 6, 6], [0, 0, 1, 1]])  # IoU exactly 0.5
    assert not hits_of_box([0, 0, 2.1, 1], [[0, 0, 1, 1]])
    assert not hits_of_box(None, [[0, 0, 1, 1]])


def test_faulty_maps_and_thresholds():
    with pytest.raises(ValueError, match=r'\(H, W\), got \(2, 2, 2\)'):
        peak(np.zeros((2, 2, 2)))
    with pytest.raises(ValueError, match='finite'):
        peak([[0, np.nan]])
    with pytest.raises(ValueError, match='not negative'):
        peak([[0, -1.0]])
    with pytest.raises(ValueError, match=r'\(0, 1\], got 0'):
        box_around_peak(MAP, 0)
