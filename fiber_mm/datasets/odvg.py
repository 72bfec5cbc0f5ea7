"""ODVG JSON lines (MM-Grounding-DINO): detection and grounding samples."""

from __future__ import annotations

import os.path as osp
from collections import Counter
from typing import Any

from mmdet.datasets import BaseDetDataset

from fiber_mm.registry import DATASETS

from .annotations import (
    LeftOut,
    box_fault,
    check_box,
    check_fields,
    check_filter,
    has_valid_box,
    log_counts,
    read_json,
    read_json_lines,
)
from .transforms.prompt import class_list


@DATASETS.register_module()
class FiberODVGDataset(BaseDetDataset):
    """Detection and grounding samples of one ODVG file.

    Against mmdet's ``ODVGDataset``: both kinds may stand in one file, faulty boxes are named or
    counted, the label map is attached when a sample is asked for (not stored with every image,
    and never changed), phrases are ``tokens_positive`` by entity.

    Samples have ``img_path, height, width, instances, text, custom_entities``; for detection
    ``text`` is the class list, for grounding the caption, with ``tokens_positive``.

    Args:
        label_map_file: JSON of ``{"0": name}`` below ``data_root``; needed for detection samples.
        filter_cfg: ``filter_empty_gt=True`` leaves out images without boxes of more than one
            pixel a side.
        **kwargs: As in mmdet's datasets.
    """

    def __init__(
        self,
        *args: Any,
        data_root: str = '',
        label_map_file: str | None = None,
        return_classes: bool = True,
        **kwargs: Any,
    ) -> None:
        self.classes: tuple[str, ...] | None = None
        if label_map_file is not None:
            path = osp.join(data_root, label_map_file)
            self.classes = tuple(class_list(read_json(path)))
        super().__init__(*args, data_root=data_root, return_classes=return_classes, **kwargs)
        if self.classes is not None:
            self._metainfo.setdefault('classes', self.classes)

    def load_data_list(self) -> list[dict]:
        """Read the annotation file."""
        left_out = LeftOut()
        samples = []
        for where, row in read_json_lines(self.ann_file, self.backend_args):
            missing = [key for key in ('filename', 'height', 'width') if key not in row]
            if missing or ('detection' not in row and 'grounding' not in row):
                raise ValueError(
                    f'{where} has only {sorted(row)}; an ODVG sample has filename, height, width '
                    'and detection or grounding'
                )
            sample = {
                'img_path': osp.join(self.data_prefix.get('img', ''), row['filename']),
                'img_id': row.get('img_id', len(samples)),
                'height': row['height'],
                'width': row['width'],
            }
            if 'grounding' in row:
                sample.update(self._parse_grounding(row, where, left_out))
            else:
                sample.update(self._parse_detection(row, where, left_out))
            samples.append(sample)
        log_counts(self.ann_file, len(samples), left_out)
        return samples

    def _instance(
        self, row: dict, box: Any, label: int, where: str, left_out: LeftOut
    ) -> list[dict]:
        box = check_box(box, where)
        fault = box_fault(box, row['height'], row['width'])
        if fault is not None:
            left_out.add(f'boxes {fault}', where)
            return []
        return [{'bbox': box, 'bbox_label': label, 'ignore_flag': 0}]

    def _parse_detection(self, row: dict, where: str, left_out: LeftOut) -> dict:
        if self.classes is None:
            raise ValueError(f'{where} is a detection sample: give a label_map_file')
        instances = []
        objects = row['detection'].get('instances', [])
        check_fields(objects, ('bbox', 'label'), 'instance', where)
        for number, obj in enumerate(objects):
            label = int(obj['label'])
            if not 0 <= label < len(self.classes):
                raise ValueError(
                    f'{where}: instance {number} has the label {label}, the label map has '
                    f'{len(self.classes)} classes'
                )
            place = f'{where}: instance {number}'
            instances += self._instance(row, obj['bbox'], label, place, left_out)
        return {'instances': instances}

    def _parse_grounding(self, row: dict, where: str, left_out: LeftOut) -> dict:
        instances, spans = [], []
        check_fields([row['grounding']], ('caption', 'regions'), 'grounding', where)
        regions = row['grounding']['regions']
        check_fields(regions, ('bbox', 'tokens_positive'), 'region', where)
        for number, region in enumerate(regions):
            boxes = region['bbox']
            if not boxes or not isinstance(boxes[0], (list, tuple)):
                boxes = [boxes]
            for box in boxes:
                place = f'{where}: region {number}'
                instances += self._instance(row, box, number, place, left_out)
            spans.append(region['tokens_positive'])
        return {
            'instances': instances,
            'text': row['grounding']['caption'],
            'tokens_positive': spans,
            'custom_entities': False,
        }

    def filter_data(self) -> list[dict]:
        """Leave out images without boxes (training only)."""
        filter_cfg = check_filter(self.filter_cfg, ('filter_empty_gt',))
        if self.test_mode or not filter_cfg.get('filter_empty_gt'):
            return self.data_list
        kept = [
            info
            for info in self.data_list
            if has_valid_box(instance['bbox'] for instance in info['instances'])
        ]
        without = len(self.data_list) - len(kept)
        log_counts(self.ann_file, len(kept), Counter({'images without boxes': without}))
        return kept

    def get_data_info(self, idx: int) -> dict:
        """The sample, a detection sample with its class list."""
        info = super().get_data_info(idx)
        if 'text' not in info and self.return_classes:
            info['text'] = self.classes
            info['custom_entities'] = True
            if self.caption_prompt is not None:
                info['caption_prompt'] = self.caption_prompt
        return info
