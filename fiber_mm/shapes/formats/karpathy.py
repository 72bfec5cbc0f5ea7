"""Karpathy's captions: ``annotations/dataset_coco.json``, with detailed captions, and on demand
``dataset_flickr30k.json``, with the five captions that the grounding files have.

The original trains on Karpathy's train + val and evaluates on test. So every tenth training image
stands as ``val``, and the Shapes split ``val``, with its held-out classes, as ``test``. Any other
split for evaluation has a file of its own, ``dataset_coco_{split}.json``, and is ``test`` there.
"""

from __future__ import annotations

from typing import Any

from ..captions import detailed_captions
from ..relations import View
from ..scene import Scene, is_train

_VAL_EVERY = 10


def path_of(split: str, dataset: str = 'coco') -> str:
    """The file that a Shapes split is in."""
    own = '' if is_train(split) or split == 'val' else f'_{split}'
    return f'annotations/dataset_{dataset}{own}.json'


def karpathy_split(scene: Scene) -> str:
    """``train``, ``val`` or ``test``."""
    if not is_train(scene.split):
        return 'test'
    return 'val' if scene.index % _VAL_EVERY == 0 else 'train'


def _sentences(scene: Scene, captions: list[dict[str, Any]]) -> dict[str, Any]:
    sentences = [
        dict(tokens=caption['text'].replace(' .', '').split(), raw=caption['text'],
             imgid=scene.image_id, sentid=scene.image_id * 10 + k, unseen=caption['unseen'])
        for k, caption in enumerate(captions)
    ]  # fmt: skip
    return dict(sentids=[s['sentid'] for s in sentences], sentences=sentences)


def image_row(scene: Scene, view: View | None = None) -> dict[str, Any]:
    """An entry of ``images``; sentences also have ``unseen``, whether a held-out class is named.

    Args:
        scene: An annotated scene.
        view: A view of it, if there is one already.
    """
    return dict(filepath=scene.split, filename=scene.file_name, imgid=scene.image_id,
                cocoid=scene.image_id, split=karpathy_split(scene),
                **_sentences(scene, detailed_captions(scene, view)))  # fmt: skip


def flickr_row(scene: Scene) -> dict[str, Any]:
    """The same for Flickr30k, whose images all lie in one folder and have no ``cocoid``.

    Those of Shapes lie in the folder of their split, with which the file's name begins.
    """
    return dict(filename=f'{scene.split}/{scene.file_name}', imgid=scene.image_id,
                split=karpathy_split(scene), **_sentences(scene, scene.captions))  # fmt: skip


def rows(scene: Scene, view: View | None = None) -> dict[tuple[str, str], list[Any]]:
    """Rows of one scene."""
    return {(path_of(scene.split), 'images'): [image_row(scene, view)]}


def headers(split: str) -> dict[str, dict[str, Any]]:
    """The name of the data set, as in Karpathy's file."""
    return {path_of(split): dict(dataset='coco')}
