import base64
import io
import re

import numpy as np
from PIL import Image

from fiber_mm.report import coloured_phrases, figure, page, section, table, tiles


def test_text_is_escaped():
    html = page('a < b', section('<i>', table(['<u>'], [['<script>', '✗ bad']])))
    assert '<script>' not in html
    assert '&lt;script&gt;' in html
    assert '<td class=bad>✗ bad</td>' in html
    assert '&lt;b&gt;' in tiles([('<b>', '1', '', True)])


def test_a_page_loads_nothing():
    html = page('t', figure(np.zeros((4, 6, 3), np.uint8), 'c', 'black'))
    assert not re.search(r'(src|href)="(?!data:)', html)
    assert 'url(' not in html
    assert 'width=device-width' in html


def test_pictures_are_inside():
    picture = np.full((8, 12, 3), 200, np.uint8)
    data = re.search(r'data:image/jpeg;base64,([^"]+)', figure(picture, '', 'x'))[1]
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (12, 8)
    assert figure([picture, picture], 'both', 'x').count('<img') == 2
    assert 'image/png' in figure(b'png', '', 'x')


def test_phrases_are_coloured():
    html = coloured_phrases('a <cat> and a dog', [[[0, 7]], [[12, 17]]], [(1, 2, 3), (255, 0, 0)])
    assert html == (
        '<mark style="--c:#010203">a &lt;cat&gt;</mark> and <mark style="--c:#ff0000">a dog</mark>'
    )


def test_overlapping_phrases_keep_every_letter_once():
    html = coloured_phrases('abcdef', [[[0, 4]], [[2, 6]]], [(0, 0, 0), (1, 1, 1)])
    assert re.sub('<[^>]+>', '', html) == 'abcdef'
