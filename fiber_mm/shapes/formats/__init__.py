"""Writers of the file formats that real data sets come in.

Each module turns one scene into rows of the files it writes: ``rows(scene)`` returns
``{(path, section): [row, ...]}`` with ``path`` relative to the folder; ``section`` is the key of
a list in a JSON file, or '' for a JSON-lines file. Ids are derived from the image id, so rows do
not depend on one another and can be made in any order. Those of ``entities`` and
``visual_genome`` are written on demand (:mod:`fiber_mm.shapes.caption_files`).
"""

from __future__ import annotations

from typing import Any

from ..relations import View
from ..scene import Scene
from . import coco, entities, karpathy, lvis, mdetr, odvg, visual_genome

Rows = dict[tuple[str, str], list[Any]]
_FORMATS = (coco, lvis, odvg, mdetr)


def scene_rows(scene: Scene, view: View | None = None) -> Rows:
    """Rows of all formats for one scene.

    Args:
        scene: An annotated scene with its texts.
        view: A view of it, if there is one already.
    """
    out: Rows = {(f'scenes_{scene.split}.jsonl', ''): [scene.to_dict()]}
    for module in _FORMATS:
        out.update(module.rows(scene))
    out.update(karpathy.rows(scene, view))
    return out


def headers(split: str) -> dict[str, dict[str, Any]]:
    """The parts of each JSON file that are the same for all scenes, by path."""
    return {**coco.headers(split), **mdetr.headers(split), **karpathy.headers(split)}


__all__ = [
    'coco',
    'entities',
    'headers',
    'karpathy',
    'lvis',
    'mdetr',
    'odvg',
    'scene_rows',
    'visual_genome',
]
