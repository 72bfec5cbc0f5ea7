"""Boxes of mirrored views come back to their place."""

from types import SimpleNamespace

import pytest
import torch
from mmdet.models.test_time_augs import DetTTAModel
from torch import nn

from fiber_mm.models.test_time_augs import FiberDetTTAModel

#: Original image, network input, and a box there: inclusive corners, not in the middle.
ORIGINAL, INPUT = (30, 50), (60, 100)
BOX = torch.tensor([[10.0, 4.0, 29.0, 35.0]])


class Detector(nn.Module):
    """All that the class reads of a detector."""

    def __init__(self, box_end: str | None) -> None:
        super().__init__()
        self.bbox_head = SimpleNamespace()
        if box_end:
            self.bbox_head.test_settings = SimpleNamespace(box_end=box_end)

    def test_step(self, data: dict) -> None:
        """Asked for, never called."""


def seen(box: torch.Tensor, box_end: str) -> torch.Tensor:
    """As the head rescales a box of the network input."""
    box = box * ORIGINAL[0] / INPUT[0]
    return box + torch.tensor([0.0, 0, 1, 1]) * (box_end == 'exclusive')


def mirror(box: torch.Tensor, direction: str) -> torch.Tensor:
    """The box of the same pixels in the mirrored input."""
    height, width = INPUT
    x1, y1, x2, y2 = box[0].tolist()
    if direction in ('horizontal', 'diagonal'):
        x1, x2 = width - 1 - x2, width - 1 - x1
    if direction in ('vertical', 'diagonal'):
        y1, y2 = height - 1 - y2, height - 1 - y1
    return torch.tensor([[x1, y1, x2, y2]])


def view(direction: str | None) -> dict:
    scale = (INPUT[1] / ORIGINAL[1], INPUT[0] / ORIGINAL[0])
    return dict(
        ori_shape=ORIGINAL, scale_factor=scale, flip=direction is not None, flip_direction=direction
    )


@pytest.mark.parametrize('box_end', ['inclusive', 'exclusive'])
@pytest.mark.parametrize('direction', ['horizontal', 'vertical', 'diagonal'])
def test_a_mirrored_box_returns_to_its_pixels(direction, box_end):
    model = FiberDetTTAModel(module=Detector(box_end))
    there = [seen(BOX, box_end), seen(mirror(BOX, direction), box_end)]
    plain, back = model.merge_aug_bboxes(there, None, [view(None), view(direction)])
    torch.testing.assert_close(plain, seen(BOX, box_end)[0])
    torch.testing.assert_close(back, plain)


@pytest.mark.parametrize('two_stages', [False, True])
def test_other_heads_are_mirrored_as_mmdet_does(two_stages):
    detector = Detector(None)
    if two_stages:  # they have a roi_head
        del detector.bbox_head
    model = FiberDetTTAModel(module=detector)
    arguments = ([BOX, BOX], None, [view(None), view('horizontal')])
    wanted = DetTTAModel.merge_aug_bboxes(model, *arguments)
    assert torch.equal(model.merge_aug_bboxes(*arguments), wanted)


def test_views_may_be_silent_about_mirroring():
    model = FiberDetTTAModel(module=Detector('inclusive'))
    silent = {key: value for key, value in view(None).items() if 'flip' not in key}
    merged = model.merge_aug_bboxes([BOX, BOX], None, [silent, silent])
    assert torch.equal(merged, torch.cat([BOX, BOX]))
