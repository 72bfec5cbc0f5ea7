"""GIoU loss by hand."""

import pytest
import torch

from fiber_mm.models.losses import giou_loss


@pytest.mark.parametrize(
    ('box', 'target', 'loss'),
    [
        ([0, 0, 4, 4], [0, 0, 4, 4], 0.0),
        # Common 4, union 28, hull 36.
        ([0, 0, 4, 4], [2, 2, 6, 6], 1 - 4 / 28 + 8 / 36),
        # Apart: common 0, union 2, hull 1 x 10.
        ([0, 0, 1, 1], [9, 0, 10, 1], 1 + 8 / 10),
        # A box of negative width counts as one without area at its left edge.
        ([2, 0, 1, 2], [0, 0, 2, 2], 1.0),
    ],
)
def test_by_hand(box, target, loss):
    box, target = torch.tensor(box).float(), torch.tensor(target).float()
    assert giou_loss(box, target).item() == pytest.approx(loss, abs=1e-6)


def test_any_leading_shape():
    boxes = torch.rand(2, 3, 5, 4).sort(-1).values
    targets = boxes.flip(0)
    flat = giou_loss(boxes.view(-1, 4), targets.reshape(-1, 4))
    assert torch.equal(giou_loss(boxes, targets).flatten(), flat)
