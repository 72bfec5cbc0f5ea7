"""Captions with phrase spans, and referring expressions, true by construction.

Both are built from noun phrases whose set of objects is known: an attribute set that exactly one
object fits ('a small striped red circle'), or a counted group ('two red circles').
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from . import vocabulary as V
from .relations import EXTREMES, INVERSE, View
from .scene import Scene, is_train, pick

ATTRIBUTES = ('size', 'texture', 'colour', 'shape')  # in spoken order
CAPTIONS_PER_IMAGE = 5
EXPRESSIONS_PER_IMAGE = 3
GENERIC = 'shape'

RELATION_TEXT = {
    'left of': ('to the left of', 'left of'),
    'right of': ('to the right of', 'right of'),
    'above': ('above', 'over'),
    'below': ('below', 'under'),
    'in front of': ('in front of', 'partly covering'),
    'behind': ('behind', 'partly hidden by'),
}
POSITION_TEXT = {
    ('left',): 'on the left',
    ('right',): 'on the right',
    ('top',): 'at the top',
    ('bottom',): 'at the bottom',
    ('middle',): 'in the middle',
    ('left', 'top'): 'at the top left',
    ('right', 'top'): 'at the top right',
    ('left', 'bottom'): 'at the bottom left',
    ('right', 'bottom'): 'at the bottom right',
}
_BY_PRECISION = sorted(POSITION_TEXT, key=len, reverse=True)
Attributes = dict[str, str]


def matches(attributes: Attributes, view: View) -> list[int]:
    """Indices of the objects that have all the attributes, sizes read loosely."""
    left = view.having(attributes)
    return [i for i in range(len(view.objects)) if left >> i & 1]


def noun(attributes: Attributes, count: int = 1) -> str:
    """'small striped red circle', or its plural; without a shape: 'red shape'."""
    words = [attributes[k] for k in ATTRIBUTES[:3] if k in attributes]
    head = attributes.get('shape', GENERIC)
    return ' '.join([*words, head if count == 1 else V.plural(head)])


def with_article(text: str) -> str:
    """'a red circle', 'an orange circle'."""
    return ('an ' if text[0] in 'aeiou' else 'a ') + text


def _attributes_of(index: int, keys: Sequence[str], view: View) -> Attributes | None:
    """Values of some attributes, None if the object has no definite size; in the order of keys."""
    out = {}
    for key in keys:
        if key == 'size':
            word = view.size_word(index)
            if word is None:
                return None
            out[key] = word
        else:
            out[key] = getattr(view.objects[index], key)
    return out


# Attribute sets to try, from bare to full, in spoken order; the first two mostly name the class.
_KEY_SETS = (
    ('colour', 'shape'),
    ('texture', 'colour', 'shape'),
    ('size', 'colour', 'shape'),
    ('size', 'texture', 'colour', 'shape'),
    ('shape',),
    ('colour',),
    ('size', 'shape'),
    ('texture', 'shape'),
    ('size', 'colour'),
    ('texture', 'colour'),
)


def describe(index: int, view: View, rng: np.random.Generator) -> Attributes | None:
    """Attributes that no other object fits even loosely, or None."""
    draw = rng.random()
    start = 0 if draw < 0.5 else int(rng.random() * len(_KEY_SETS))
    key = ('describe', index, start)
    if key not in view.known:
        view.known[key] = _describe(index, view, start)
    found = view.known[key]
    return found and dict(found)


def _describe(index: int, view: View, start: int) -> Attributes | None:
    for keys in (*_KEY_SETS[start:], *_KEY_SETS[:start]):
        known = ('alone', index, keys)
        if known not in view.known:
            attributes = _attributes_of(index, keys, view)
            alone = attributes and view.having(attributes) == 1 << index
            view.known[known] = attributes if alone else None
        if view.known[known]:
            return view.known[known]
    return None


class _Text:
    """A sentence under construction, with the spans of its phrases."""

    def __init__(self) -> None:
        self.text = ''
        self.phrases: list[dict[str, Any]] = []

    def add(self, words: str) -> None:
        self.text += (' ' if self.text else '') + words

    def add_phrase(self, words: str, objects: Sequence[int]) -> None:
        self.add(words)
        span = [len(self.text) - len(words), len(self.text)]
        self.phrases.append(dict(span=span, phrase=words, objects=list(objects)))


def _group(index: int, view: View) -> tuple[str, list[int]]:
    """The class of an object, counted: always possible."""
    obj = view.objects[index]
    attributes = dict(colour=obj.colour, shape=obj.shape)
    members = matches(attributes, view)
    words = noun(attributes, len(members))
    if len(members) == 1:
        return with_article(words), members
    return f'{V.NUMBERS[len(members)]} {words}', members


def _mention(index: int, view: View, rng: np.random.Generator) -> tuple[str, list[int]]:
    attributes = describe(index, view, rng)
    if attributes is None:
        return _group(index, view)
    return with_article(noun(attributes)), [index]


def _order(n: int, rng: np.random.Generator) -> list[int]:
    return rng.permutation(n).tolist()


def _relation_caption(view: View, rng: np.random.Generator) -> _Text | None:
    """'a red circle is above a blue square'."""
    if not view.scene.relations:
        return None
    for _ in range(4):
        a, relation, b = pick(rng, view.scene.relations)
        if rng.random() < 0.5:
            a, relation, b = b, INVERSE[relation], a
        first, second = describe(a, view, rng), describe(b, view, rng)
        if first is None or second is None:
            continue
        out = _Text()
        out.add_phrase(with_article(noun(first)), [a])
        out.add('is ' + pick(rng, RELATION_TEXT[relation]))
        out.add_phrase(with_article(noun(second)), [b])
        return out
    return None


def _list_caption(view: View, rng: np.random.Generator, most: int) -> _Text:
    """'two stars and a red circle with a blue square'."""
    out, used = _Text(), set()
    joints = (pick(rng, ('and', 'with', 'together with')), 'and')
    for index in _order(len(view.objects), rng):
        words, members = _mention(index, view, rng)
        if used.intersection(members):
            continue
        if out.phrases:
            out.add(joints[min(len(out.phrases) - 1, 1)])
        out.add_phrase(words, members)
        used.update(members)
        if len(out.phrases) == most:
            break
    return out


def _position_caption(view: View, rng: np.random.Generator) -> _Text | None:
    """'there is a red circle at the top left and a star on the right'."""
    out, used = _Text(), set()
    out.add('there is')
    for index in _order(len(view.objects), rng):
        attributes = describe(index, view, rng)
        where = position_of(index, view)
        if attributes is None or where is None:
            continue
        if used:
            out.add('and')
        out.add_phrase(with_article(noun(attributes)), [index])
        out.add(POSITION_TEXT[where])
        used.add(index)
        if len(used) == 2:
            break
    return out if used else None


def position_of(index: int, view: View) -> tuple[str, ...] | None:
    """The most precise position that clearly holds."""
    key = ('position', index)
    if key not in view.known:
        fitting = (words for words in _BY_PRECISION if view.at_position(index, words))
        view.known[key] = next(fitting, None)
    return view.known[key]


def make_captions(view: View, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Five sentences about a scene.

    Returns: list of dict(text, phrases); each phrase is dict(span=[start, end), phrase, objects),
        with ``objects`` all the objects that it means. Sentences end in ' .' as in Flickr30k.
    """
    out = []
    for i in range(CAPTIONS_PER_IMAGE):
        draw = rng.random()
        text = None
        if i == 0:
            text = _list_caption(view, rng, 4)
        elif draw < 0.45:
            text = _relation_caption(view, rng)
        elif draw < 0.65:
            text = _position_caption(view, rng)
        if text is None:
            text = _list_caption(view, rng, 2 if draw < 0.85 else 3)
        if rng.random() < 0.2:
            text.add(f'on a {view.scene.background["kind"]} background')
        unseen = any(view.objects[k].held_out for p in text.phrases for k in p['objects'])
        out.append(dict(text=text.text + ' .', phrases=text.phrases, unseen=unseen))
    return out


def _base(index: int, view: View, rng: np.random.Generator) -> Attributes:
    """Attributes for an expression that goes on: rather ambiguous ones."""
    draw = rng.random()
    keys = ('colour', 'shape') if draw < 0.6 else ('shape',) if draw < 0.8 else ('colour',)
    sets = [keys, ('shape',), ('colour',)]
    for keys in sets:
        attributes = _attributes_of(index, keys, view)
        if len(matches(attributes, view)) > 1:
            return attributes
    return _attributes_of(index, sets[0], view)


def _by_attributes(index: int, view: View, rng: np.random.Generator) -> dict[str, Any] | None:
    attributes = describe(index, view, rng)
    return attributes and dict(text=noun(attributes), attributes=attributes)


def _by_position(index: int, view: View, rng: np.random.Generator) -> dict[str, Any] | None:
    attributes = _base(index, view, rng)
    group = matches(attributes, view)
    options = [w for w in POSITION_TEXT if view.at_position(index, w)]
    for k in _order(len(options), rng):
        words = options[k]
        if [i for i in group if view.at_position(i, words, loose=True)] == [index]:
            text = f'{noun(attributes)} {POSITION_TEXT[words]}'
            return dict(text=text, attributes=attributes, position=list(words))
    return None


def _by_extreme(index: int, view: View, rng: np.random.Generator) -> dict[str, Any] | None:
    attributes = _base(index, view, rng)
    group = matches(attributes, view)
    if len(group) < 2:
        return None
    options = [w for w in EXTREMES if view.is_extreme(index, w, group)]
    if not options:
        return None
    word = pick(rng, options)
    return dict(text=f'{word} {noun(attributes)}', attributes=attributes, extreme=word)


def _by_relation(index: int, view: View, rng: np.random.Generator) -> dict[str, Any] | None:
    attributes = _base(index, view, rng)
    group = matches(attributes, view)
    for other in _order(len(view.objects), rng):
        anchor = other != index and describe(other, view, rng)
        if not anchor:
            continue
        for relation in INVERSE:
            fit = [i for i in group if i != other and view.holds(i, relation, other, loose=True)]
            if fit == [index] and view.holds(index, relation, other):
                words = pick(rng, RELATION_TEXT[relation])
                return dict(text=f'{noun(attributes)} {words} the {noun(anchor)}',
                            attributes=attributes, relation=relation, anchor=anchor,
                            anchor_object=other)  # fmt: skip
    return None


_KINDS = dict(
    attributes=_by_attributes, position=_by_position, extreme=_by_extreme, relation=_by_relation
)
_FIRST = ('attributes',) * 3 + ('position',) * 3 + ('extreme',) * 2 + ('relation',) * 3


def make_expressions(view: View, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Referring expressions that each mean exactly one object.

    Returns: up to three dicts: ``text``, ``object`` (index), ``kind``, ``head`` (span of the noun
        phrase without its supplement), ``distractors`` (number of other objects of the same
        colour or shape), ``unseen``, and the parts it was built of.
    """
    objects = view.objects
    rivals = [sum(o.colour == p.colour or o.shape == p.shape for p in objects) - 1 for o in objects]
    order = sorted(_order(len(objects), rng), key=lambda i: rivals[i] == 0)
    out = []
    for index in order:
        first = pick(rng, _FIRST)
        for kind in (first, *(k for k in _KINDS if k != first)):
            found = _KINDS[kind](index, view, rng)
            if found:
                break
        if not found:
            continue
        article = 'the ' if rng.random() < 0.7 or kind == 'extreme' else ''
        head = noun(found['attributes'])
        if kind == 'extreme':
            head = f'{found["extreme"]} {head}'
        found['text'] = article + found['text']
        mentioned = [index, found.get('anchor_object', index)]
        found.update(
            object=index,
            kind=kind,
            head=[0, len(article) + len(head)],
            distractors=rivals[index],
            unseen=any(objects[i].held_out for i in mentioned),
        )
        out.append(found)
        if len(out) == EXPRESSIONS_PER_IMAGE:
            break
    return out


def speak(scene: Scene, rng: np.random.Generator, view: View | None = None) -> None:
    """Write captions and expressions into a scene.

    Args:
        scene: An annotated scene.
        rng: The image's generator, as `sample_scene` left it.
        view: A view of the scene, if there is one already.
    """
    view = view or View(scene)
    scene.captions = make_captions(view, rng)
    scene.expressions = make_expressions(view, rng)
    if is_train(scene.split) and any(t['unseen'] for t in scene.captions + scene.expressions):
        raise AssertionError(f'held-out class in a training text of image {scene.image_id}')


def corpus() -> list[str]:
    """Every word of the grammar in the contexts it occurs in; the tokenizer is trained on this."""
    lines = []
    for name in V.CATEGORIES:
        colour, shape = name.split(' ')
        for word in (*V.TEXTURES, *V.SIZE_WORDS, *EXTREMES, ''):
            text = f'{word} {colour} {shape}'.strip()
            many = f'{word} {colour} {V.plural(shape)}'.strip()
            lines += [text, f'the {text}', with_article(text), f'two {many}', f'{text}. ']
            lines.append(f'{word} {shape}'.strip())
            lines.append(f'the {word} {colour} {GENERIC}')
    links = [w for options in RELATION_TEXT.values() for w in options]
    for words in (*links, *POSITION_TEXT.values(), 'and', 'with', 'together with', 'there is'):
        lines += [words, f' {words}', f'it is {words} the one'] * 8
    for word in (*V.NUMBERS, *V.BACKGROUNDS, 'background', 'on', 'image', 'picture', 'how', 'many',
                 'what', 'which', 'colour', 'are', 'there', 'is', 'the', 'yes', 'no', 'left',
                 'right', 'both', 'same', 'more', 'than', 'fewer', 'images', GENERIC, 'object',
                 'objects', 'of', 'in', 'an', 'a', 'does', 'has', 'true', 'false', 'each',
                 'texture', 'size', 'number', 'or', 'not', 'to'):  # fmt: skip
        lines += [word, f' {word}', f' {word} .', f' {word} ?'] * 8
    return lines
