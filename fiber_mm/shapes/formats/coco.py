"""COCO detection: ``annotations/instances_{split}.json``."""

from __future__ import annotations

from typing import Any

from .. import vocabulary as V
from ..scene import Scene

INFO = dict(description='Shapes, COCO format', version='1.0', year=2024, contributor='fiber_mm',
            url='', date_created='2024/01/01')  # fmt: skip
LICENSES = [dict(id=1, name='Apache License 2.0', url='https://www.apache.org/licenses/')]


def image_row(scene: Scene) -> dict[str, Any]:
    """The ``images`` entry of COCO."""
    return dict(license=1, file_name=scene.file_name, coco_url='', height=scene.height,
                width=scene.width, date_captured='2024-01-01 00:00:00', flickr_url='',
                id=scene.image_id)  # fmt: skip


def rows(scene: Scene) -> dict[tuple[str, str], list[Any]]:
    """Rows of one scene; boxes are those of the visible part."""
    path = f'annotations/instances_{scene.split}.json'
    annotations = [
        dict(segmentation=obj.segmentation, area=obj.area, iscrowd=0, image_id=scene.image_id,
             bbox=list(obj.box), category_id=V.LABELS[obj.category] + 1,
             id=scene.image_id * 100 + i)
        for i, obj in enumerate(scene.objects)
    ]  # fmt: skip
    return {(path, 'images'): [image_row(scene)], (path, 'annotations'): annotations}


def headers(split: str) -> dict[str, dict[str, Any]]:
    """Info, licences and all 48 categories, with the same ids in every split."""
    categories = [
        dict(supercategory=name.split(' ')[1], id=i + 1, name=name)
        for i, name in enumerate(V.CATEGORIES)
    ]
    path = f'annotations/instances_{split}.json'
    return {path: dict(info=INFO, licenses=LICENSES, categories=categories)}
