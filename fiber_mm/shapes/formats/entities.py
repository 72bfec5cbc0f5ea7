"""Flickr30k Entities: boxes in ``Annotations/*.xml``, marked-up captions in ``Sentences/*.txt``.

Every set of objects that a caption speaks of is an entity with an id of its own, as in the
original, where the ids link phrases of the five sentences to boxes.
"""

from __future__ import annotations

from typing import Any
from xml.sax.saxutils import escape

from ..scene import Scene

FOLDER = 'flickr30k_entities'


def _entities(scene: Scene) -> dict[tuple[int, ...], int]:
    """Object set -> entity id, in order of first mention."""
    ids: dict[tuple[int, ...], int] = {}
    for caption in scene.captions:
        for phrase in caption['phrases']:
            ids.setdefault(tuple(phrase['objects']), scene.image_id * 100 + len(ids))
    return ids


def _sentence(caption: dict[str, Any], ids: dict[tuple[int, ...], int]) -> str:
    text, out, end = caption['text'], '', 0
    for phrase in caption['phrases']:
        start, stop = phrase['span']
        entity = ids[tuple(phrase['objects'])]
        out += f'{text[end:start]}[/EN#{entity}/other {text[start:stop]}]'
        end = stop
    return out + text[end:]


def _xml(scene: Scene, ids: dict[tuple[int, ...], int]) -> str:
    lines = [
        '<annotation>',
        f'\t<filename>{escape(scene.file_name)}</filename>',
        f'\t<size><width>{scene.width}</width><height>{scene.height}</height>'
        '<depth>3</depth></size>',
    ]
    for objects, entity in ids.items():
        for i in objects:
            x, y, w, h = scene.objects[i].box
            # 1-based, inclusive corners as in the original's VOC layout
            lines.append(
                f'\t<object><name>{entity}</name><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin>'
                f'<xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>'
            )
    return '\n'.join([*lines, '</annotation>', ''])


def files(scene: Scene) -> dict[str, bytes]:
    """Path below ``FOLDER`` -> content of the two files of one image."""
    ids, stem = _entities(scene), scene.file_name[:-4]
    sentences = '\n'.join(_sentence(c, ids) for c in scene.captions) + '\n'
    return {
        f'Annotations/{stem}.xml': _xml(scene, ids).encode(),
        f'Sentences/{stem}.txt': sentences.encode(),
    }
