"""Maps of tokens, phrases and pixels."""

import pytest
import torch
import torch.nn.functional as F

from fiber_mm.core.recording import CrossAttention
from fiber_mm.models.utils.heatmaps import combine, phrase_maps, to_pixels, token_maps

HEIGHT, WIDTH, TOKENS = 2, 3, 4


@pytest.fixture
def pair():
    places = HEIGHT * WIDTH
    i2t, t2i = torch.rand(1, 2, places, TOKENS), torch.rand(1, 2, TOKENS, places)
    return CrossAttention(i2t, t2i, (HEIGHT, WIDTH))


def test_layout_of_both_directions(pair):
    for way in ('i2t', 't2i'):
        gradient = torch.randn_like(getattr(pair, way))
        plain, weighted = token_maps(pair, way), token_maps(pair, way, gradient)
        assert plain.shape == weighted.shape == (1, TOKENS, HEIGHT, WIDTH)
        for token in range(TOKENS):
            for row in range(HEIGHT):
                for column in range(WIDTH):
                    place = row * WIDTH + column
                    index = (place, token) if way == 'i2t' else (token, place)
                    both = [
                        (getattr(pair, way)[0, h][index], gradient[0, h][index]) for h in (0, 1)
                    ]
                    wanted = sum(a for a, _ in both) / 2
                    torch.testing.assert_close(plain[0, token, row, column], wanted)
                    wanted = sum(a * max(g, 0) for a, g in both) / 2
                    torch.testing.assert_close(weighted[0, token, row, column], wanted)


def test_phrases_average_their_tokens():
    maps = torch.rand(TOKENS, HEIGHT, WIDTH)
    chosen = torch.tensor([[False, True, False, True], [False] * 4, [True, False, False, False]])
    out = phrase_maps(maps, chosen)
    torch.testing.assert_close(out[0], (maps[1] + maps[3]) / 2)
    assert out[1].abs().max() == 0
    torch.testing.assert_close(out[2], maps[0])


def test_pixels_without_padding_are_bilinear():
    maps = torch.rand(2, 3, 4)
    out = to_pixels(maps, 8, (24, 32), (48, 80))
    wanted = F.interpolate(maps[None], (48, 80), mode='bilinear', align_corners=False)[0]
    torch.testing.assert_close(out, wanted)
    torch.testing.assert_close(to_pixels(maps, 8, (24, 32), (3, 4)), maps)


def test_padding_is_cut_off():
    """Shown are 20 x 12 of 32 x 24 pixels; the original is twice as large."""
    maps = torch.rand(1, 4, 3)
    fine = F.interpolate(maps[None], (64, 48), mode='bilinear', align_corners=False)[0]
    torch.testing.assert_close(to_pixels(maps, 8, (20, 12), (40, 24)), fine[:, :40, :24])


def test_a_cell_covers_its_pixels():
    maps = torch.zeros(1, 3, 4)
    maps[0, 1, 2] = 1
    out = to_pixels(maps, 32, (96, 128), (96, 128))[0]
    row, column = divmod(int(out.argmax()), 128)
    assert (row // 32, column // 32) == (1, 2)
    rows, columns = (out > 0.5).nonzero().T
    assert 32 <= rows.min() <= rows.max() < 64
    assert 64 <= columns.min() <= columns.max() < 96


def test_combine():
    one, other = torch.rand(2, 3, 4) + 0.1, torch.rand(2, 3, 4)
    out = combine([one, 1000 * other])
    torch.testing.assert_close(out, combine([3 * one, other]))  # scales do not matter
    assert out.amin((1, 2)).tolist() == [0, 0]
    torch.testing.assert_close(out.amax((1, 2)), torch.ones(2))
    total = one / one.mean((1, 2), keepdim=True) + other / other.mean((1, 2), keepdim=True)
    assert torch.equal(out.flatten(1).argsort(), total.flatten(1).argsort())
    # An empty map adds nothing to the other one.
    torch.testing.assert_close(combine([one, torch.zeros(2, 3, 4)]), combine([one]))


def test_level_maps_have_no_peak():
    level = torch.full((1, 5, 5), 0.3)
    level[0, 2, 2] += 1e-7  # rounding
    assert combine([level]).abs().max() == 0
    assert combine([torch.zeros(1, 5, 5)]).abs().max() == 0
