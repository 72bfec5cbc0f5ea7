"""mmdet's test-time augmentation around the detector."""

import copy

import torch
from mmengine.config import ConfigDict
from mmengine.dataset import Compose, pseudo_collate

from fiber_mm.registry import MODELS

FLIPS = [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)]
TTA = ConfigDict(nms=dict(type='nms', iou_threshold=0.6), max_per_img=200)


def test_flips_are_merged(nano_cfg, model, photo):
    start = nano_cfg.test_dataloader.dataset.pipeline[:-1]
    pack = dict(type='FiberPackInputs')
    data = dict(img_path=photo, img_id=1, text=('red circle', 'blue square'), custom_entities=True)

    def views(*flips):
        steps = [*start, dict(type='TestTimeAug', transforms=[list(flips), [pack]])]
        return pseudo_collate([Compose(copy.deepcopy(steps))(dict(data))])

    def run(batch):
        tta = MODELS.build(dict(type='FiberDetTTAModel', module=model, tta_cfg=TTA))
        with torch.no_grad():
            return tta.eval().test_step(batch)[0].pred_instances

    mirrored, plain, both = run(views(FLIPS[0])), run(views(FLIPS[1])), run(views(*FLIPS))
    assert not torch.allclose(mirrored.scores[:5], plain.scores[:5])
    pool = {
        (*b.tolist(), s.item()) for one in (mirrored, plain) for b, s in zip(one.bboxes, one.scores)
    }
    seen = [(*b.tolist(), s.item()) for b, s in zip(both.bboxes, both.scores)]
    assert set(seen) <= pool
    assert both.scores[0] == torch.maximum(mirrored.scores[0], plain.scores[0])
    assert both.label_names == [('red circle', 'blue square')[label] for label in both.labels]
    # Boxes of the mirrored view are mirrored back, into the original image.
    width = 128
    assert (both.bboxes[:, 0] >= -1).all()
    assert (both.bboxes[:, 2] <= width + 1).all()
    assert any(
        tuple(b.tolist()) in {tuple(m.tolist()) for m in mirrored.bboxes} for b in both.bboxes
    )
