"""Box coding against numbers worked out by hand."""

import math

import pytest
import torch

from fiber_mm.models.task_modules.box_coder import decode_boxes, encode_boxes


def test_by_hand():
    anchor = torch.tensor([[10.0, 20.0, 19.0, 39.0]])  # 10 x 20 pixels, centre (14.5, 29.5)
    box = torch.tensor([[12.0, 25.0, 31.0, 29.0]])  # 20 x 5 pixels, centre (21.5, 27)
    deltas = torch.tensor(
        [[10 * 7 / 10, 10 * -2.5 / 20, 5 * math.log(20 / 10), 5 * math.log(5 / 20)]]
    )
    torch.testing.assert_close(encode_boxes(box, anchor), deltas)
    torch.testing.assert_close(decode_boxes(deltas, anchor), box)


def test_round_trip():
    low = torch.rand(3, 50, 2, dtype=torch.double) * 100
    boxes = torch.cat([low, low + 10 + torch.rand_like(low) * 200], -1)
    anchors = boxes[:, torch.randperm(50)]
    torch.testing.assert_close(decode_boxes(encode_boxes(boxes, anchors), anchors), boxes)


@pytest.mark.parametrize(('log_side', 'side'), [(5 * 10.0, 1000 / 16), (-5 * 10.0, math.exp(-10))])
def test_growth_is_limited_shrinking_is_not(log_side, side):
    box = decode_boxes(torch.tensor([0, 0, log_side, 0]), torch.tensor([0.0, 0.0, 99.0, 99.0]))
    assert (box[2] - box[0] + 1).item() == pytest.approx(100 * side, rel=1e-2)
