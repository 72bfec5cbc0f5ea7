"""Captions, phrases and referring expressions are true and unambiguous."""

import re

import numpy as np
import pytest

from fiber_mm.shapes import make_scene
from fiber_mm.shapes import vocabulary as V
from fiber_mm.shapes.language import corpus, matches, noun, speak, with_article
from fiber_mm.shapes.relations import INVERSE, View

from .evaluator import refer

RELATION = re.compile(r'^an? ([a-z ]+) is ([a-z ]+?) an? ([a-z ]+?)( on a \w+ background)? \.$')
PLACE = re.compile(r' ((on|at|in) the [a-z ]+?)( and| on a \w+ background)?$')
NUMBERS = {'a': 1, 'an': 1, **{word: i for i, word in enumerate(V.NUMBERS)}}


@pytest.fixture(scope='module')
def many() -> list[dict]:
    """More scenes than the folder has, as JSON would hold them."""
    return [make_scene(3, 'val', i)[0].to_dict() for i in range(150)]


def test_expressions_mean_exactly_their_object(many):
    kinds, rivals = set(), 0
    total = 0
    for scene in many:
        for expression in scene['expressions']:
            assert refer(expression['text'], scene) == [expression['object']], expression['text']
            kinds.add(expression['kind'])
            rivals += expression['distractors'] > 0
            total += 1
    assert kinds == {'attributes', 'position', 'extreme', 'relation'}
    assert total > 300
    assert rivals / total > 0.8  # look-alikes are there in most images


def test_expression_heads_are_noun_phrases(many):
    for scene in many:
        for e in scene['expressions']:
            start, end = e['head']
            assert start == 0
            last = e['text'][:end].split(' ')[-1]
            assert last in (*V.SHAPES, 'shape')


def test_phrase_spans_are_the_phrases(many):
    for scene in many:
        for caption in scene['captions']:
            ends = 0
            for phrase in caption['phrases']:
                start, end = phrase['span']
                assert caption['text'][start:end] == phrase['phrase']
                assert start >= ends  # in order, apart from one another
                ends = end
            assert caption['phrases']
            assert caption['text'].endswith(' .')


def test_phrases_fit_their_objects(many):
    plural = {V.plural(s): s for s in (*V.SHAPES, 'shape')}
    for scene in many:
        for caption in scene['captions']:
            for phrase in caption['phrases']:
                number, *words = phrase['phrase'].split(' ')
                assert NUMBERS[number] == len(phrase['objects'])
                text = ' '.join([*words[:-1], plural.get(words[-1], words[-1])])
                assert refer(text, scene) == sorted(phrase['objects']), phrase['phrase']


def test_stated_relations_and_positions_hold(many):
    checked = 0
    for scene in many:
        for caption in scene['captions']:
            hit = RELATION.match(caption['text'])
            if hit:
                text = f'{hit[1]} {hit[2]} the {hit[3]}'
                assert refer(text, scene) == caption['phrases'][0]['objects'], caption['text']
                checked += 1
            background = re.search(r'on a (\w+) background', caption['text'])
            if background:
                assert background[1] == scene['background']['kind']
    assert checked > 50


def test_position_captions_hold(many):
    checked = 0
    for scene in many:
        for caption in scene['captions']:
            if not caption['text'].startswith('there is'):
                continue
            starts = [p['span'][0] for p in caption['phrases']][1:]
            for phrase, stop in zip(caption['phrases'], [*starts, None]):
                tail = caption['text'][phrase['span'][1] : stop]
                where = PLACE.match(tail.rstrip(' .'))
                assert where, tail
                text = f'{phrase["phrase"].split(" ", 1)[1]} {where[1]}'
                assert refer(text, scene) == phrase['objects'], caption['text']
                checked += 1
    assert checked > 30


def test_no_held_out_class_in_training_text(rows):
    pattern = re.compile('|'.join(rf'\b{name}' for name in V.HELD_OUT))
    texts = [t['text'] for s in rows['train'] for t in s['captions'] + s['expressions']]
    assert not [t for t in texts if pattern.search(t)]
    assert not any(t['unseen'] for s in rows['train'] for t in s['captions'] + s['expressions'])


def test_unseen_flag_marks_held_out_classes():
    flagged = 0
    for i in range(60):
        scene, _ = make_scene(11, 'val', i)
        for caption in scene.captions:
            held_out = any(scene.objects[k].held_out for p in caption['phrases']
                           for k in p['objects'])  # fmt: skip
            assert caption['unseen'] == held_out
            flagged += held_out
    assert flagged > 10


def test_speaking_of_held_out_classes_in_training_is_refused():
    made = (make_scene(5, 'val', i)[0] for i in range(40))
    scene = next(s for s in made if sum(o.held_out for o in s.objects) >= 2)
    scene.split = 'train'
    refused = 0
    for k in range(20):
        try:
            speak(scene, np.random.default_rng(k))
        except AssertionError as error:
            refused += 'held-out' in str(error)
    assert refused > 10


def test_relations_are_antisymmetric(scenes):
    for scene in scenes:
        view = View(scene)
        n = len(scene.objects)
        for a in range(n):
            for b in range(n):
                for relation, inverse in INVERSE.items():
                    if a != b and view.holds(a, relation, b):
                        assert view.holds(b, inverse, a)
                        assert not view.holds(a, inverse, b)
                        assert view.holds(a, relation, b, loose=True)


def test_unknown_words_are_named(scenes):
    view = View(scenes[0])
    with pytest.raises(ValueError, match='beside'):
        view.holds(0, 'beside', 1)
    with pytest.raises(ValueError, match='huge'):
        view.has_size(0, 'huge')
    with pytest.raises(ValueError, match='centre'):
        view.at_position(0, ['centre'])
    with pytest.raises(ValueError, match='roundest'):
        view.is_extreme(0, 'roundest', [0, 1])


def test_matches_and_noun(scenes):
    view = View(scenes[0])
    obj = scenes[0].objects[0]
    assert 0 in matches(dict(colour=obj.colour, shape=obj.shape), view)
    assert matches(dict(colour='mauve'), view) == []
    full = dict(shape='cross', size='small', colour='orange', texture='striped')
    assert noun(full, 2) == 'small striped orange crosses'
    assert with_article('orange ring') == 'an orange ring'
    assert noun(dict(colour='red')) == 'red shape'


def test_corpus_has_every_word_used(many):
    known = {w for line in corpus() for w in re.findall(r'[a-z]+', line)}
    used = {w for s in many for t in s['captions'] + s['expressions']
            for w in re.findall(r'[a-z]+', t['text'])}  # fmt: skip
    assert used <= known
