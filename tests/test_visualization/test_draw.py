import numpy as np
import pytest

from fiber_mm.visualization import DrawnBox, draw_boxes, drawing_scale, place_label


def overlap(a, b):
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    return max(w, 0) * max(h, 0)


def test_small_pictures_are_enlarged_and_large_ones_reduced():
    assert drawing_scale(256, 256) == 2.5
    assert drawing_scale(1, 1) == 4.0
    assert drawing_scale(800, 1000) == 1.0
    assert drawing_scale(3200, 100) == 0.5


def test_lines_lie_on_the_box_in_its_colour():
    image = np.full((100, 100, 3), 255, np.uint8)
    picture = draw_boxes(image, [DrawnBox((20, 30, 60, 80), '', (0, 158, 115))], scale=2.0)
    assert picture.shape == (200, 200, 3)
    assert picture[100, 40].tolist() == [0, 158, 115]
    assert picture[60, 80].tolist() == [0, 158, 115]
    assert (picture[90:130, 60:100] == 255).all()
    assert (image == 255).all()


def test_dashed_lines_have_gaps():
    image = np.full((100, 100, 3), 255, np.uint8)
    solid, dashed = (
        draw_boxes(image, [DrawnBox((10, 10, 90, 90), '', (240, 228, 66), dashed)], scale=2.0)
        for dashed in (False, True)
    )
    coloured = [(picture == (240, 228, 66)).all(-1).sum() for picture in (solid, dashed)]
    assert 0.4 < coloured[1] / coloured[0] < 0.9


def test_a_label_covers_neither_its_small_box_nor_others_nor_other_labels():
    size = (400, 400)
    boxes = [(100, 100, 120, 120), (100, 60, 140, 96), (100, 124, 140, 150)]
    taken = []
    for box in boxes:
        taken.append(place_label(box, (70, 18), size, boxes, taken))
    for place in taken:
        assert 0 <= place[0] <= place[2] <= 400
        assert 0 <= place[1] <= place[3] <= 400
        assert not any(overlap(place, box) for box in boxes)
        assert not any(overlap(place, other) for other in taken if other is not place)


@pytest.mark.parametrize(
    'box',
    [(0, 0, 5, 5), (395, 395, 400, 400), (0, 0, 400, 400), (-50, -50, 900, 900), (9, 9, 9, 9)],
)
def test_any_box_can_be_drawn(box):
    image = np.zeros((400, 400, 3), np.uint8)
    picture = draw_boxes(image, [DrawnBox(box, 'größe ✗ 0.50', (86, 180, 233))], scale=1.0)
    assert (picture == (86, 180, 233)).all(-1).any()


def test_refuses_what_is_no_picture():
    with pytest.raises(ValueError, match=r'uint8.*float64'):
        draw_boxes(np.zeros((4, 4, 3)), [])
    with pytest.raises(ValueError, match=r'\(4, 4\)'):
        draw_boxes(np.zeros((4, 4), np.uint8), [])
