"""Visual Genome: ``region_descriptions`` and ``image_data``, one pair of files per split.

Regions are what the five captions and the expressions say of one object, each once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..scene import Scene


def _said(scene: Scene) -> list[tuple[str, int]]:
    """Phrases that mean one object, and that object."""
    captions = (p for caption in scene.captions for p in caption['phrases'])
    phrases = [(p['phrase'], p['objects'][0]) for p in captions if len(p['objects']) == 1]
    return list(dict.fromkeys(phrases + [(e['text'], e['object']) for e in scene.expressions]))


def regions_row(scene: Scene) -> dict[str, Any]:
    """An entry of ``region_descriptions.json``."""
    regions = []
    for number, (phrase, index) in enumerate(_said(scene)):
        x, y, width, height = scene.objects[index].box
        regions.append(
            dict(region_id=scene.image_id * 100 + number, image_id=scene.image_id, phrase=phrase,
                 x=x, y=y, width=width, height=height)
        )  # fmt: skip
    return dict(id=scene.image_id, regions=regions)


def image_row(scene: Scene) -> dict[str, Any]:
    """An entry of ``image_data.json``; the address ends in folder and file, as there."""
    url = f'https://cs.stanford.edu/people/rak248/{scene.split}/{scene.file_name}'
    return dict(image_id=scene.image_id, width=scene.width, height=scene.height, url=url,
                coco_id=None, flickr_id=None)  # fmt: skip


#: File of a split -> what makes its rows.
ROWS: dict[str, Callable[[Scene], dict[str, Any]]] = {
    'annotations/region_descriptions_{}.json': regions_row,
    'annotations/image_data_{}.json': image_row,
}
