"""mmdet's test-time augmentation for boxes whose corners are pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmdet.models.test_time_augs import DetTTAModel
from mmdet.structures import DetDataSample
from torch import Tensor

from fiber_mm.registry import MODELS

_AXES = {'horizontal': (0,), 'vertical': (1,), 'diagonal': (0, 1)}


@MODELS.register_module()
class FiberDetTTAModel(DetTTAModel):
    """mmdet's ``DetTTAModel`` around a :class:`FiberGrounder`.

    In a network input of width w pixel x lies at w - 1 - x of the mirrored one, while mmdet
    mirrors x to w - x, as is right for boxes whose far edges are exclusive. With the head's
    inclusive corners every box of a mirrored view would come back one pixel of the network input
    beside its place. Other detectors (a head without ``box_end``) are mirrored as mmdet does.
    Boxes keep their ``label_names``. Views need not say that they are not mirrored.
    """

    def merge_aug_bboxes(
        self, aug_bboxes: Sequence[Tensor], aug_scores: Sequence[Tensor], img_metas: Sequence[dict]
    ) -> Any:
        """See mmdet."""
        img_metas = [dict(flip=False, flip_direction=None) | meta for meta in img_metas]
        head = getattr(self.module, 'bbox_head', None)
        box_end = getattr(getattr(head, 'test_settings', None), 'box_end', None)
        if box_end is not None:
            # What the head has added to x2 and y2 is on the other side of a mirrored box.
            last = 1 if box_end == 'exclusive' else 0
            aug_bboxes = [
                boxes + _pixel(meta, boxes) - last * _mirrored(meta, boxes)
                for boxes, meta in zip(aug_bboxes, img_metas)
            ]
        return super().merge_aug_bboxes(aug_bboxes, aug_scores, img_metas)

    def _merge_single_sample(self, data_samples: list[DetDataSample]) -> DetDataSample:
        """mmdet's, and the names of the boxes that are left."""
        names: dict[int, str] = {}
        for found in (sample.pred_instances for sample in data_samples):
            if 'label_names' in found:
                names.update(zip(found.labels.tolist(), found.label_names))
        merged = super()._merge_single_sample(data_samples)
        if names:
            labels = merged.pred_instances.labels.tolist()
            merged.pred_instances.label_names = [names[label] for label in labels]
        return merged


def _mirrored(meta: dict, boxes: Tensor) -> Tensor:
    """(4,) 1 for the coordinates that the view mirrors."""
    axes = _AXES[meta['flip_direction']] if meta['flip'] else ()
    return boxes.new_tensor([float(axis in axes) for axis in (0, 1, 0, 1)])


def _pixel(meta: dict, boxes: Tensor) -> Tensor:
    """(4,) side of a pixel of the network input in the original image, along mirrored axes."""
    scale = boxes.new_tensor([*meta['scale_factor']] * 2)
    return _mirrored(meta, boxes) / scale
