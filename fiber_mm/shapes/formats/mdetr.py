"""MDETR-style grounding files: Flickr30k captions and RefCOCO/+/g expressions.

In the Flickr file an ``images`` entry is one caption with one annotation for each box of each
phrase ("separate ground truth"); in the RefCOCO files it is one expression with its one box.
All boxes are x, y, w, h.
"""

from __future__ import annotations

from typing import Any

from ..scene import Scene

_REFCOCO = {
    # RefCOCO+ has no words of place, RefCOCOg long expressions
    'refcoco': lambda e: True,
    'refcoco+': lambda e: e['kind'] == 'attributes' or e.get('extreme') in ('largest', 'smallest'),
    'refcocog': lambda e: e['kind'] == 'relation',
}
_FLICKR = 'annotations/final_flickr_separateGT_{}.json'
_REFEXP = 'annotations/finetune_{}_{}.json'


def _image(scene: Scene, id_: int, caption: str, name: str, unseen: bool, **more: Any) -> dict:
    return dict(file_name=scene.file_name, height=scene.height, width=scene.width, id=id_,
                caption=caption, dataset_name=name, tokens_negative=[[0, len(caption)]],
                unseen=unseen, **more)  # fmt: skip


def _annotation(
    scene: Scene, index: int, image_id: int, number: int, spans: list, **more: Any
) -> dict:
    obj = scene.objects[index]
    return dict(area=obj.area, iscrowd=0, image_id=image_id, category_id=1,
                id=image_id * 100 + number, bbox=list(obj.box), tokens_positive=spans,
                **more)  # fmt: skip


def _flickr(scene: Scene) -> dict[tuple[str, str], list[Any]]:
    images, annotations = [], []
    for k, caption in enumerate(scene.captions):
        id_ = scene.image_id * 10 + k
        spans = [[p['span']] for p in caption['phrases']]
        images.append(_image(scene, id_, caption['text'], 'flickr', caption['unseen'],
                             sentence_id=k, original_img_id=scene.image_id,
                             tokens_positive_eval=spans))  # fmt: skip
        boxes = [(j, i) for j, p in enumerate(caption['phrases']) for i in p['objects']]
        annotations += [
            _annotation(scene, i, id_, n, spans[j], phrase_ids=j) for n, (j, i) in enumerate(boxes)
        ]
    path = _FLICKR.format(scene.split)
    return {(path, 'images'): images, (path, 'annotations'): annotations}


def _refexp(scene: Scene, name: str) -> dict[tuple[str, str], list[Any]]:
    images, annotations = [], []
    for k, expression in enumerate(scene.expressions):
        if not _REFCOCO[name](expression):
            continue
        id_, text = scene.image_id * 10 + k, expression['text']
        images.append(_image(scene, id_, text, name, expression['unseen'],
                             original_id=scene.image_id, sentence_id=k))  # fmt: skip
        annotations.append(_annotation(scene, expression['object'], id_, 0, [[0, len(text)]],
                                       original_id=scene.image_id * 100 + expression['object'],
                                       tokens_head=[expression['head']]))  # fmt: skip
    path = _REFEXP.format(name, scene.split)
    return {(path, 'images'): images, (path, 'annotations'): annotations}


def rows(scene: Scene) -> dict[tuple[str, str], list[Any]]:
    """Rows of one scene."""
    out = _flickr(scene)
    for name in _REFCOCO:
        out.update(_refexp(scene, name))
    return out


def headers(split: str) -> dict[str, dict[str, Any]]:
    """Info, licences, and the one category 'object'."""
    fixed = dict(info=[], licenses=[], categories=[dict(supercategory='object', id=1,
                                                        name='object')])  # fmt: skip
    paths = [_FLICKR.format(split), *(_REFEXP.format(name, split) for name in _REFCOCO)]
    return dict.fromkeys(paths, fixed)
