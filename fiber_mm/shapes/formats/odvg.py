"""ODVG of MM-Grounding-DINO: JSON lines of detection and of grounding samples.

``{split}_od.jsonl`` goes with ``label_map.json`` (seen classes; ``label_map_all.json`` has all,
the first ones equal), ``{split}_vg.jsonl`` has captions, ``{split}_refexp_vg.jsonl`` referring
expressions. Boxes are x1, y1, x2, y2 with exclusive far edges.
"""

from __future__ import annotations

from typing import Any

from .. import vocabulary as V
from ..scene import Scene


def xyxy(box: tuple[int, int, int, int]) -> list[int]:
    """x, y, w, h -> x1, y1, x2, y2."""
    x, y, w, h = box
    return [x, y, x + w, y + h]


def _sample(scene: Scene, **content: Any) -> dict[str, Any]:
    return dict(filename=scene.file_name, height=scene.height, width=scene.width, **content)


def _region(scene: Scene, objects: list[int], phrase: str, span: list[int]) -> dict[str, Any]:
    boxes = [xyxy(scene.objects[i].box) for i in objects]
    return dict(bbox=boxes[0] if len(boxes) == 1 else boxes, phrase=phrase,
                tokens_positive=[span])  # fmt: skip


def rows(scene: Scene) -> dict[tuple[str, str], list[Any]]:
    """Rows of one scene."""
    instances = [
        dict(bbox=xyxy(obj.box), label=V.LABELS[obj.category], category=obj.category)
        for obj in scene.objects
    ]
    captions = [
        _sample(scene, grounding=dict(
            caption=c['text'],
            regions=[_region(scene, p['objects'], p['phrase'], p['span']) for p in c['phrases']],
        ))
        for c in scene.captions
    ]  # fmt: skip
    expressions = [
        _sample(scene, grounding=dict(
            caption=e['text'],
            regions=[_region(scene, [e['object']], e['text'], [0, len(e['text'])])],
        ))
        for e in scene.expressions
    ]  # fmt: skip
    folder, split = 'annotations', scene.split
    return {
        (f'{folder}/{split}_od.jsonl', ''): [_sample(scene, detection=dict(instances=instances))],
        (f'{folder}/{split}_vg.jsonl', ''): captions,
        (f'{folder}/{split}_refexp_vg.jsonl', ''): expressions,
    }


def label_maps() -> dict[str, dict[str, str]]:
    """File name -> label map."""
    full = {str(i): name for i, name in enumerate(V.CATEGORIES)}
    seen = {str(i): name for i, name in enumerate(V.SEEN)}
    return {'label_map.json': seen, 'label_map_all.json': full}
