import numpy as np
import pytest

from fiber_mm.visualization import Tile, contact_sheet
from fiber_mm.visualization.draw import _font
from fiber_mm.visualization.sheet import shortened


def flat(colour, height=10, width=20):
    return np.full((height, width, 3), colour, np.uint8)


def test_images_are_in_rows_and_fitted_into_squares():
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    sheet = contact_sheet([Tile(flat(colour)) for colour in colours], columns=2, side=100)
    assert sheet.shape == (2 * 108 + 8, 2 * 108 + 8, 3)
    for colour, (x, y) in zip(colours, [(58, 58), (166, 58), (58, 166)]):
        assert tuple(sheet[y, x]) == colour
        assert tuple(sheet[y - 24, x]) == colour  # twice as wide as high
        assert tuple(sheet[y - 28, x]) == (225, 225, 225)
    assert tuple(sheet[166, 166]) == (255, 255, 255)


def test_words():
    plain = contact_sheet([Tile(flat(0)), Tile(None)], side=100)
    words = contact_sheet([Tile(flat(0), ['one']), Tile(None, ['a', 'b'])], 'title', side=100)
    assert words.shape[0] > plain.shape[0]
    assert (words[:24] < 100).any()  # the title
    foot = words[-30:]
    assert (foot < 100).any()
    assert tuple(words[-60, 160]) == (225, 225, 225)  # the place of an image that is missing


def test_long_words_are_shortened_in_the_middle():
    font = _font(13)
    text = 'a/very/long/path/of/an/image/that/does/not/fit.jpg'
    short = shortened(text, font, 150)
    assert font.getlength(short) <= 150
    assert short.startswith('a/very')
    assert short.endswith('fit.jpg')
    assert shortened('short', font, 150) == 'short'
    assert shortened('two\nlines \udcff', font, 500) == 'two lines ?'


def test_nothing_to_draw():
    with pytest.raises(ValueError, match='needs an image'):
        contact_sheet([])
