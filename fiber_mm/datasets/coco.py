"""COCO- and LVIS-format detection data, with the class list as prompt."""

from __future__ import annotations

import logging
import os.path as osp
from collections import Counter
from typing import Any

from mmdet.datasets import BaseDetDataset
from mmengine.logging import print_log

from fiber_mm.models.utils.prompts import clean_class_name
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


@DATASETS.register_module()
class FiberCocoDataset(BaseDetDataset):
    """COCO-format detection data.

    Against mmdet's ``CocoDataset``: classes come from the file, in the order of its
    ``categories`` (mmdet pairs the file's order with the names of the config), images are in
    the order of their ids, faulty boxes are named or counted, and the class list is attached when
    a sample is asked for, not stored with every image.

    Samples have ``img_path, img_id, height, width, instances`` and ``text`` (the class list),
    ``custom_entities``, ``caption_prompt``.

    Args:
        metainfo: ``classes`` restricts the data to some of the file's classes.
        skip_categories: Names that are no classes.
        filter_cfg: ``filter_empty_gt=True`` leaves out images without boxes, or whose boxes all
            have a side of at most one pixel (the original does so in training).
        few_shot: Keep images, in the order of their ids, while one of their classes has quota
            left; every image kept takes one from the quota of all its classes (ODinW). 0: all.
        return_classes, caption_prompt, **kwargs: As in mmdet's datasets.
    """

    #: Of every image; and whether classes of the same words (but for parentheses) are no surprise.
    _image_fields: tuple[str, ...] = ('id', 'file_name', 'height', 'width')
    _ambiguous = False

    def __init__(
        self,
        *args: Any,
        skip_categories: tuple[str, ...] = ('__background__',),
        few_shot: int = 0,
        return_classes: bool = True,
        **kwargs: Any,
    ) -> None:
        self.skip_categories = tuple(skip_categories)
        self.few_shot = few_shot
        super().__init__(*args, return_classes=return_classes, **kwargs)

    def _categories(self, content: dict) -> list[dict]:
        """Categories in the order of their labels."""
        return list(content['categories'])

    def _file_name(self, image: dict) -> str:
        return image['file_name']

    def load_data_list(self) -> list[dict]:
        """Read the annotation file."""
        content = read_json(
            self.ann_file, ('images', 'annotations', 'categories'), self.backend_args
        )
        self._set_classes(self._categories(content))
        images, annotations = group_annotations(
            content, self.ann_file, self._image_fields, ('image_id', 'category_id', 'bbox')
        )
        left_out = LeftOut()
        samples = [
            self._parse(image, annotations.get(image['id'], []), left_out) for image in images
        ]
        log_counts(self.ann_file, len(samples), left_out)
        return samples

    def _set_classes(self, categories: list[dict]) -> None:
        categories = [c for c in categories if c['name'] not in self.skip_categories]
        names = [category['name'] for category in categories]
        faulty = [name for name, number in Counter(names).items() if number > 1 or not name.strip()]
        if faulty:
            raise ValueError(
                f'{self.ann_file}: category names must be there once each, and not empty; faulty: '
                f'{faulty[:20]}. Rename or join these categories'
            )
        wanted = self._metainfo.get('classes')
        if wanted is not None:
            unknown = [name for name in wanted if name not in names]
            if unknown:
                raise ValueError(
                    f'{self.ann_file} has no classes {unknown}; it has {names[:20]}'
                    f'{" ..." if len(names) > 20 else ""}'
                )
            categories = [category for category in categories if category['name'] in set(wanted)]
        self._metainfo['classes'] = tuple(category['name'] for category in categories)
        if not self._ambiguous:
            self._warn_of_same_words()
        self.cat_ids = [category['id'] for category in categories]
        self.cat2label = {cat_id: label for label, cat_id in enumerate(self.cat_ids)}

    def _warn_of_same_words(self) -> None:
        by_words: dict[str, list[str]] = {}
        for name in self._metainfo['classes']:
            by_words.setdefault(clean_class_name(name), []).append(name)
        same = [names for names in by_words.values() if len(names) > 1]
        if same:
            print_log(
                f'{self.ann_file}: the classes {same[0]} are the same words in a prompt, where '
                'parentheses are dropped, so the model cannot tell them apart: rename them',
                'current',
                logging.WARNING,
            )

    def _parse(self, image: dict, annotations: list[dict], left_out: LeftOut) -> dict:
        instances = []
        for annotation in annotations:
            where = f'annotation {annotation.get("id")} of image {image["id"]}'
            x, y, w, h = check_box(annotation['bbox'], f'{self.ann_file}: {where}')
            box = [x, y, x + w, y + h]
            if annotation['category_id'] not in self.cat2label:
                left_out['boxes of other classes'] += 1
                continue
            fault = box_fault(box, image['height'], image['width'])
            if annotation.get('ignore', False):
                fault = 'marked "ignore"'
            if fault is not None:
                left_out.add(f'boxes {fault}', where)
                continue
            instances.append(
                {
                    'bbox': box,
                    'bbox_label': self.cat2label[annotation['category_id']],
                    'ignore_flag': int(bool(annotation.get('iscrowd', False))),
                }
            )
        return {
            'img_path': osp.join(self.data_prefix.get('img', ''), self._file_name(image)),
            'img_id': image['id'],
            'height': image['height'],
            'width': image['width'],
            'instances': instances,
        }

    def filter_data(self) -> list[dict]:
        """Leave out images without boxes, too small ones, and those beyond the few shots."""
        if self.test_mode:
            return self.data_list
        filter_cfg = check_filter(self.filter_cfg, ('filter_empty_gt', 'min_size'))
        kept, left_out = [], Counter()
        for info in self.data_list:
            boxes = [instance['bbox'] for instance in info['instances']]
            if filter_cfg.get('filter_empty_gt') and not has_valid_box(boxes):
                left_out['images without boxes'] += 1
            elif min(info['width'], info['height']) < filter_cfg.get('min_size', 0):
                left_out['images below min_size'] += 1
            else:
                kept.append(info)
        if self.few_shot:
            kept, before = self._first_shots(kept), len(kept)
            left_out[f'images beyond {self.few_shot} shots'] = before - len(kept)
        log_counts(self.ann_file, len(kept), left_out)
        return kept

    def _first_shots(self, infos: list[dict]) -> list[dict]:
        quota = dict.fromkeys(range(len(self.cat_ids)), self.few_shot)
        kept = []
        for info in infos:
            labels = {instance['bbox_label'] for instance in info['instances']}
            if any(quota[label] > 0 for label in labels):
                kept.append(info)
                for label in labels:
                    quota[label] -= 1
        return kept

    def get_data_info(self, idx: int) -> dict:
        """The sample with its class list."""
        info = super().get_data_info(idx)
        if self.return_classes:
            info['text'] = self._metainfo['classes']
            info['custom_entities'] = True
            if self.caption_prompt is not None:
                info['caption_prompt'] = self.caption_prompt
        return info


@DATASETS.register_module()
class FiberLVISDataset(FiberCocoDataset):
    """LVIS v1, without the ``lvis`` package: classes by category id, image files by their URL."""

    _image_fields = ('id', 'height', 'width')
    _ambiguous = True

    def _categories(self, content: dict) -> list[dict]:
        return sorted(content['categories'], key=lambda category: category['id'])

    def _file_name(self, image: dict) -> str:
        if 'coco_url' in image:
            # ".../val2017/000000000139.jpg": the split's folder is part of the name
            return '/'.join(image['coco_url'].split('/')[-2:])
        if 'file_name' in image:
            return image['file_name']
        raise ValueError(
            f'{self.ann_file}: the image with the id {image["id"]} has neither coco_url nor '
            f'file_name, only {", ".join(sorted(image))}'
        )
