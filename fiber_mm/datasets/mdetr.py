"""MDETR-style JSON: captions whose phrases have boxes (Flickr30k, GoldG, RefCOCO/+/g)."""

from __future__ import annotations

import os.path as osp
from typing import Any

from mmdet.datasets import BaseDetDataset

from fiber_mm.registry import DATASETS

from .annotations import (
    LeftOut,
    box_fault,
    check_box,
    check_filter,
    group_annotations,
    has_valid_box,
    log_counts,
    read_json,
)

Spans = list[list[int]]


@DATASETS.register_module()
class FiberMDETRDataset(BaseDetDataset):
    """Captions with grounded phrases, for training and for evaluation.

    An ``images`` entry of the file is one caption (or referring expression). In training the
    entities are the distinct ``tokens_positive`` of its annotations. In testing they are the
    ``tokens_positive_eval`` where the file has them (Flickr30k), else the same as in training
    (RefCOCO).

    Samples have ``img_path, img_id, height, width, instances`` (labelled by entity), ``text``,
    ``tokens_positive``, ``custom_entities``, and for the metrics ``phrases`` (their texts),
    ``phrase_boxes`` (for each entity its boxes x, y, x + w, y + h in pixels of the original
    image), ``original_img_id``, ``sentence_id``, ``dataset_name`` as far as the file has them.

    Captions without boxes, or whose boxes all have a side of at most one pixel, are left out, as
    in the original.

    Args:
        **kwargs: As in mmdet's datasets.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Read the annotation file."""
        if check_filter(self.filter_cfg, ('filter_empty_gt',)).get('filter_empty_gt') is False:
            raise ValueError(
                'captions without boxes are always left out of MDETR-style files, as in the '
                'original: filter_cfg=dict(filter_empty_gt=False) has no effect, leave it out'
            )
        content = read_json(self.ann_file, ('images', 'annotations'), self.backend_args)
        images, annotations = group_annotations(
            content,
            self.ann_file,
            ('id', 'file_name', 'height', 'width'),
            ('image_id', 'bbox', 'tokens_positive'),
        )
        left_out = LeftOut()
        samples = []
        for image in images:
            sample = self._parse(image, annotations.get(image['id'], []), left_out)
            if has_valid_box(instance['bbox'] for instance in sample['instances']):
                samples.append(sample)
            else:
                left_out['captions without boxes'] += 1
        log_counts(self.ann_file, len(samples), left_out)
        return samples

    def _parse(self, image: dict, annotations: list[dict], left_out: LeftOut) -> dict:
        if 'caption' not in image:
            raise ValueError(
                f'{self.ann_file}: image {image["id"]} has no caption, only {sorted(image)}; '
                'an MDETR-style file is wanted'
            )
        caption = image['caption']
        entities = self._entities(image, annotations)
        instances = []
        phrase_boxes: list[list] = [[] for _ in entities]
        for annotation in annotations:
            where = f'annotation {annotation.get("id")} of image {image["id"]}'
            if annotation.get('iscrowd', 0):
                left_out['crowd boxes'] += 1
                continue
            x, y, w, h = check_box(annotation['bbox'], f'{self.ann_file}: {where}')
            box = [x, y, x + w, y + h]
            fault = box_fault(box, image['height'], image['width'])
            if fault is not None:
                left_out.add(f'boxes {fault}', where)
                continue
            labels = _labels_of(annotation['tokens_positive'], entities)
            if not labels:
                left_out['boxes of no evaluated phrase'] += 1
            for label in labels:
                instances.append({'bbox': box, 'bbox_label': label, 'ignore_flag': 0})
                phrase_boxes[label].append(box)
        sample = {
            'img_path': osp.join(self.data_prefix.get('img', ''), image['file_name']),
            'img_id': image['id'],
            'height': image['height'],
            'width': image['width'],
            'instances': instances,
            'text': caption,
            'tokens_positive': entities,
            'custom_entities': False,
            'phrases': [
                ' / '.join(caption[start:end] for start, end in spans) for spans in entities
            ],
            'phrase_boxes': phrase_boxes,
        }
        for key in ('original_img_id', 'sentence_id', 'dataset_name', 'unseen'):
            if key in image:
                sample[key] = image[key]
        return sample

    def _entities(self, image: dict, annotations: list[dict]) -> list[Spans]:
        if self.test_mode and image.get('tokens_positive_eval'):
            return [[list(span) for span in spans] for spans in image['tokens_positive_eval']]
        entities: list[Spans] = []
        for annotation in annotations:
            spans = [list(span) for span in annotation['tokens_positive']]
            if spans not in entities:
                entities.append(spans)
        return entities


def _labels_of(spans: Spans, entities: list[Spans]) -> list[int]:
    """Entities that an annotation belongs to: with the same spans, else sharing one."""
    spans = [list(span) for span in spans]
    if spans in entities:
        # The same words can be listed twice only in evaluation files; both are asked for.
        return [label for label, entity in enumerate(entities) if entity == spans]
    return [label for label, entity in enumerate(entities) if any(s in entity for s in spans)]
