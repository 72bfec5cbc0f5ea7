"""Rule-based noun phrases."""

import pytest

from fiber_mm.models.utils.phrases import find_noun_phrases


@pytest.mark.parametrize(
    ('caption', 'phrases'),
    [
        ('a red circle left of the small blue square', ['a red circle', 'the small blue square']),
        ('There is two cat and a remote in the picture', ['two cat', 'a remote', 'the picture']),
        ('two dogs playing with a ball on the grass', ['two dogs', 'a ball', 'the grass']),
        (
            'a black and white dog runs to the left of the parked car',
            ['a black and white dog', 'the parked car'],
        ),
        (
            'A man in a blue shirt is standing on a ladder cleaning a window.',
            ['A man', 'a blue shirt', 'a ladder', 'a window'],
        ),
        ('a smiling woman next to a can', ['a smiling woman', 'a can']),
        ('a circle is partly covering a large blue shape .', ['a circle', 'a large blue shape']),
        ('a star at the bottom right of the picture', ['a star', 'the picture']),
        ('the sky is blue', ['the sky']),
        ('the square above the orange', ['the square', 'the orange']),
        ('bicycle, dog, yellow traffic light', ['bicycle', 'dog', 'yellow traffic light']),
        ('cat', ['cat']),
        ('It is raining', []),
        ('', []),
    ],
)
def test_phrases(caption, phrases):
    spans = find_noun_phrases(caption)
    assert [caption[start:end] for start, end in spans] == phrases
    assert spans == sorted(spans)


def test_offsets_survive_letters_that_grow_in_lower_case():
    caption = 'İİ a red ball'
    assert [caption[a:b] for a, b in find_noun_phrases(caption)][-1] == 'a red ball'
