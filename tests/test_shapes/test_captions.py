"""Detailed captions are true, tell images apart, and fit into pre-training's 40 tokens."""

import itertools

import pytest
from transformers import AutoTokenizer

from fiber_mm.shapes import make_scene
from fiber_mm.shapes import vocabulary as V
from fiber_mm.shapes.annotate import annotate
from fiber_mm.shapes.captions import CAPTIONS_PER_IMAGE, detailed_captions
from fiber_mm.shapes.scene import sample_scene, scene_from_dict

from .evaluator import refer

PLURAL = {V.plural(s): s for s in V.SHAPES}


@pytest.fixture(scope='module')
def scenes():
    return [make_scene(5, 'val', i)[0] for i in range(120)]


@pytest.fixture(scope='module')
def rows(scenes):
    """As JSON would hold them: what the evaluator reads."""
    return [scene.to_dict() for scene in scenes]


def meant(phrase: str, row: dict) -> tuple[list[int], int]:
    """Objects of a scene that a phrase fits, and how many it speaks of."""
    number, *words = phrase.split(' ')
    count = 1 if number in ('a', 'an') else V.NUMBERS.index(number)
    return refer(' '.join(PLURAL.get(w, w) for w in words), row), count


def could_mean(caption: dict, row: dict) -> bool:
    """Whether a scene has all that a caption speaks of, in different objects."""
    groups = []
    for phrase, _ in caption['mentions']:
        objects, count = meant(phrase, row)
        if len(objects) < count:
            return False
        groups.append(itertools.combinations(objects, count))
    return any(
        len(set(itertools.chain(*choice))) == sum(map(len, choice))
        for choice in itertools.product(*groups)
    )


def test_phrases_mean_exactly_their_objects(scenes, rows):
    for scene, row in zip(scenes, rows):
        for caption in detailed_captions(scene):
            used = []
            for phrase, objects in caption['mentions']:
                found, count = meant(phrase, row)
                assert found == sorted(objects), (phrase, scene.image_id)
                assert count == len(objects)
                assert phrase in caption['text']
                used += objects
            assert len(set(used)) == len(used)
            assert caption['unseen'] == any(scene.objects[i].held_out for i in used)


def ambiguity(scenes: list, rows: list[dict], every: int, captions: int) -> list[int]:
    """How many other images each of some captions fits."""
    counts = []
    for i in range(0, len(scenes), every):
        for caption in detailed_captions(scenes[i])[:captions]:
            assert could_mean(caption, rows[i])
            counts.append(sum(could_mean(caption, row) for k, row in enumerate(rows) if k != i))
    return counts


def test_hardly_any_other_image_fits(scenes, rows):
    others = ambiguity(scenes, rows, 1, 2)
    assert sum(n == 0 for n in others) / len(others) > 0.97


@pytest.mark.slow
def test_hardly_any_of_a_thousand_images_fits():
    """The figure of docs/shapes.md, on a twentieth of the captions."""
    scenes = []
    for index in range(1000):
        scene, canvas, _ = sample_scene(0, 'val', index, 256)
        annotate(scene, canvas)
        scenes.append(scene)
    others = ambiguity(scenes, [scene.to_dict() for scene in scenes], 20, 5)
    assert len(others) == 250
    print(f'of no other image: {sum(n == 0 for n in others) / 2.5} %')
    assert sum(n == 0 for n in others) / len(others) > 0.97


def test_five_different_ones_always_the_same(scenes):
    texts = [[c['text'] for c in detailed_captions(s)] for s in scenes]
    assert all(len(t) == CAPTIONS_PER_IMAGE for t in texts)
    assert sum(len(set(t)) for t in texts) / len(texts) > 4.8
    assert texts == [[c['text'] for c in detailed_captions(s)] for s in scenes]
    again = [scene_from_dict(scene.to_dict()) for scene in scenes]
    assert texts == [[c['text'] for c in detailed_captions(s)] for s in again]


def test_captions_fit_into_forty_tokens(scenes, folder):
    tokenizer = AutoTokenizer.from_pretrained(folder / 'tokenizer')
    lengths = [len(tokenizer(c['text'])['input_ids']) for s in scenes for c in detailed_captions(s)]
    assert max(lengths) <= 40
    assert (
        tokenizer.unk_token_id
        not in tokenizer(detailed_captions(scenes[0])[0]['text'])['input_ids']
    )


def test_training_names_no_held_out_class():
    for index in range(40):
        scene, _ = make_scene(5, 'train', index)
        assert not any(c['unseen'] for c in detailed_captions(scene))
