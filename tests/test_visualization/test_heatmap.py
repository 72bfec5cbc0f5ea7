import numpy as np
import pytest

from fiber_mm.visualization import blend_heatmap, draw_heatmaps


def test_high_places_glow_and_low_ones_are_dark():
    image = np.full((4, 6, 3), 100, np.uint8)
    heatmap = np.zeros((4, 6))
    heatmap[1, 2] = 1
    blended = blend_heatmap(image, heatmap)
    assert blended.shape == image.shape
    assert blended.dtype == np.uint8
    assert (blended[0] == 60).all()
    # 0.6 of the light end of the colours, (252, 255, 164), and 0.4 of the image
    assert np.abs(blended[1, 2] - np.array([191, 193, 138.0])).max() <= 1
    assert (image == 100).all()


def test_a_picture_for_each_phrase():
    image = np.full((60, 90, 3), 100, np.uint8)
    maps = np.zeros((2, 60, 90))
    maps[0, 20:40, 30:60] = 1
    plain = draw_heatmaps(image, maps, ['red circle', 'nothing'], 'a red circle')
    boxed = draw_heatmaps(
        image, maps, ['red circle', 'nothing'], 'a red circle', [[(10, 10, 80, 50)], []]
    )
    assert plain.shape == boxed.shape
    assert plain.dtype == np.uint8
    assert plain.shape[1] > 3 * 320
    changed = (plain != boxed).any(-1)
    assert changed.any()
    third = plain.shape[1] // 3
    assert not changed[:, :third].any()  # the image itself
    assert not changed[:, 2 * third :].any()  # the phrase without boxes


def test_faults():
    image = np.zeros((4, 6, 3), np.uint8)
    with pytest.raises(ValueError, match=r'size of its image, \(4, 6\), got \(6, 4\)'):
        blend_heatmap(image, np.zeros((6, 4)))
    with pytest.raises(ValueError, match=r'in \[0, 1\], got 0.0 to 2.0'):
        blend_heatmap(image, np.eye(4, 6) * 2)
    with pytest.raises(ValueError, match='uint8 image, got float64'):
        blend_heatmap(image / 255, np.zeros((4, 6)))
    with pytest.raises(ValueError, match='1 maps, 2 phrases and boxes of 2'):
        draw_heatmaps(image, np.zeros((1, 4, 6)), ['a', 'b'])
