"""Detailed captions for retrieval: each is true of its own image and of hardly any other.

They say of about four of the largest objects what they are and where, so that little of the image
has to be seen to tell it from others. Objects that have no description of their own are counted
("two red circles"). The scene's own captions, which name two to four objects without places, are
true of several images among a thousand.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from . import vocabulary as V
from .language import POSITION_TEXT, Attributes, matches, noun, position_of, with_article
from .relations import View
from .scene import Scene, pick

CAPTIONS_PER_IMAGE = 5
MOST_MENTIONS = 4
#: Every word is one token of the Shapes tokenizer; pre-training takes 40, <s> and </s> included.
MOST_WORDS = 36
_DETAIL = 0.5  # probability that a texture or size that holds is said
_JOINTS = ('and', 'with', 'together with')


def detailed_captions(scene: Scene, view: View | None = None) -> list[dict[str, Any]]:
    """Captions that tell a scene from others.

    Args:
        scene: An annotated scene.
        view: A view of it, if there is one already.

    Returns: dicts with ``text``, ``unseen`` (whether a held-out class is named) and ``mentions``:
        for each phrase its text and the indices of the objects that it means. The same scene always
        gives the same captions.
    """
    view = view or View(scene)
    seed = np.random.SeedSequence(scene.image_id, spawn_key=(zlib.crc32(b'captions'),))
    rng = np.random.default_rng(seed)
    largest = sorted(range(len(scene.objects)), key=lambda i: -scene.objects[i].area)
    return [_caption(view, largest, rng) for _ in range(CAPTIONS_PER_IMAGE)]


def _caption(view: View, largest: list[int], rng: np.random.Generator) -> dict[str, Any]:
    mentions: list[tuple[str, list[int]]] = []
    used: set[int] = set()
    joint, words = pick(rng, _JOINTS), 1
    for index in _order(largest, rng):
        if index in used:
            continue
        text, members, length = _mention(index, view, rng)
        longer = words + length + (len(joint.split()) if mentions else 0)
        if longer > MOST_WORDS or not used.isdisjoint(members):
            continue
        mentions.append((text, members))
        used.update(members)
        words = longer
        if len(mentions) == MOST_MENTIONS:
            break
    mentions = [mentions[k] for k in rng.permutation(len(mentions)).tolist()]
    unseen = any(view.objects[i].held_out for i in used)
    text = f' {joint} '.join(text for text, _ in mentions) + ' .'
    return dict(text=text, unseen=unseen, mentions=[[text, list(m)] for text, m in mentions])


def _order(largest: list[int], rng: np.random.Generator) -> list[int]:
    """Large objects first, the largest always, neighbours in size in varying order."""
    draws = rng.random(len(largest) - 1).tolist()
    rank = [0.0, *(k + 3 * draw for k, draw in enumerate(draws, 1))]
    return [largest[k] for k in sorted(range(len(largest)), key=rank.__getitem__)]


def _mention(index: int, view: View, rng: np.random.Generator) -> tuple[str, list[int], int]:
    """A phrase, the objects that it means, and its number of words."""
    texture, size = rng.random() < _DETAIL, rng.random() < _DETAIL
    texture = texture and view.objects[index].texture != 'plain'
    size_word = view.size_word(index) if size else None
    key = ('mention', index, texture, size_word)
    if key not in view.known:
        text, members = _phrase(index, view, texture, size_word)
        view.known[key] = text, members, len(text.split())
    return view.known[key]


def _phrase(index: int, view: View, texture: bool, size_word: str | None) -> tuple[str, list[int]]:
    """A phrase with a place if it can mean one object only, else the class, counted."""
    obj = view.objects[index]
    of_class: Attributes = dict(colour=obj.colour, shape=obj.shape)
    attributes = dict(of_class)
    if texture:
        attributes['texture'] = obj.texture
    if size_word is not None:
        attributes['size'] = size_word
    where = position_of(index, view)
    fits = matches(attributes, view)
    if where is not None:
        fits = [i for i in fits if view.at_position(i, where, loose=True)]
    if fits == [index]:
        place = '' if where is None else ' ' + POSITION_TEXT[where]
        return with_article(noun(attributes)) + place, [index]
    members = matches(of_class, view)
    words = noun(of_class, len(members))
    if len(members) == 1:
        return with_article(words), members
    return f'{V.NUMBERS[len(members)]} {words}', members
