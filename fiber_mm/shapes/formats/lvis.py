"""LVIS v1: ``annotations/lvis_v1_{split}.json``, federated annotation of a long tail.

Categories are texture, colour and shape ('striped_red_circle'); their frequencies fall steeply
(`fiber_mm.shapes.vocabulary.TEXTURE_SHARES`). As in LVIS an image is annotated for some categories
only: those with boxes, those in ``neg_category_ids`` (verified absent), and those in
``not_exhaustive_category_ids`` (some instances lack a box); nothing is known of the others.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from .. import vocabulary as V
from ..scene import Scene, ShapeObject, is_train
from .coco import INFO, LICENSES, image_row

PATH = 'annotations/lvis_v1_{}.json'
_SKIPPED = 0.15  # share of (image, category) pairs that nobody annotated
_PARTIAL = 0.3  # of the categories with several instances in an image: not exhaustive
_NEGATIVES = 10  # at most, per image


def category_id(obj: ShapeObject) -> int:
    """1-based LVIS id of an object's class."""
    return V.LVIS_IDS[V.lvis_name(obj.texture, obj.colour, obj.shape)]


def rows(scene: Scene) -> dict[tuple[str, str], list[Any]]:
    """Rows of one scene."""
    rng = random.Random(scene.background['clutter_seed'] + 2)
    present: dict[int, list[int]] = {}
    for i, obj in enumerate(scene.objects):
        present.setdefault(category_id(obj), []).append(i)
    kept: dict[int, list[int]] = {}
    partial = []
    for category, members in present.items():
        # A single category is always kept: LVIS has few images without any.
        if rng.random() < _SKIPPED and len(present) > 1 and (kept or category != min(present)):
            continue
        if len(members) > 1 and rng.random() < _PARTIAL:
            partial.append(category)
            members = members[:-1]
        kept[category] = members
    absent = [i for i in (_SEEN_IDS if is_train(scene.split) else _ALL_IDS) if i not in present]
    negative = sorted(rng.sample(absent, rng.randint(3, _NEGATIVES)))
    image = image_row(scene)
    image.update(
        coco_url=f'http://images.cocodataset.org/{scene.split}/{scene.file_name}',
        neg_category_ids=negative,
        not_exhaustive_category_ids=sorted(partial),
    )
    del image['file_name']  # LVIS v1 has none: readers take the end of coco_url
    annotations = [
        dict(area=float(scene.objects[i].area), id=scene.image_id * 100 + i,
             segmentation=scene.objects[i].segmentation, image_id=scene.image_id,
             bbox=list(scene.objects[i].box), category_id=category)
        for category, members in kept.items()
        for i in members
    ]  # fmt: skip
    path = PATH.format(scene.split)
    return {(path, 'images'): [image], (path, 'annotations'): annotations}


def is_held_out(name: str) -> bool:
    """Whether an LVIS name belongs to a held-out colour-shape combination."""
    _, colour, shape = name.split('_')[:3]
    return f'{colour} {shape}' in V.HELD_OUT_SET


_ALL_IDS = tuple(V.LVIS_IDS.values())
_SEEN_IDS = tuple(i for name, i in V.LVIS_IDS.items() if not is_held_out(name))


class Counts:
    """Images and instances of each category, for the frequency groups."""

    def __init__(self) -> None:
        self.images: Counter[int] = Counter()
        self.instances: Counter[int] = Counter()

    def add(self, ids: Sequence[int]) -> None:
        """Count the categories of one image's annotations."""
        self.instances.update(ids)
        self.images.update(set(ids))


def header(counts: Counts) -> dict[str, Any]:
    """Fixed parts of a file.

    Args:
        counts: of the training split, whichever split the file is for, as in LVIS.
    """
    categories = []
    for name, id_ in V.LVIS_IDS.items():
        plain = ' '.join(name.split('_')[:3])
        images = counts.images[id_]
        categories.append(dict(
            id=id_,
            name=name,
            synset=f'{name}.n.01',
            synonyms=[name],
            frequency='r' if images <= 10 else 'c' if images <= 100 else 'f',
            image_count=images,
            instance_count=counts.instances[id_],
            **{'def': f'a {plain}'},
        ))  # fmt: skip
    return dict(info=INFO, licenses=LICENSES, categories=categories)
