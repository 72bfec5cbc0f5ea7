import math

import torch
import torch.nn.functional as F

from fiber_mm.models.losses.itc import contrastive_loss


def test_two_pairs_by_hand():
    image = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    text = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    out = contrastive_loss(image, text, image, text, torch.arange(2), torch.tensor(0.5))
    torch.testing.assert_close(out.i2t, torch.tensor([[2.0, 1.2], [0.0, 1.6]]))
    torch.testing.assert_close(out.t2i, out.i2t.t())
    rows = math.log(1 + math.exp(-0.8)) + math.log(1 + math.exp(-1.6))
    columns = math.log(1 + math.exp(-2.0)) + math.log(1 + math.exp(-0.4))
    torch.testing.assert_close(out.loss, torch.tensor((rows + columns) / 4))


def test_detached_candidates_leave_each_direction_to_its_own_side():
    image = F.normalize(torch.randn(3, 4), dim=1).requires_grad_()
    text = F.normalize(torch.randn(3, 4), dim=1).requires_grad_()
    temp = torch.tensor(0.1, requires_grad=True)
    out = contrastive_loss(image, text, image.detach(), text.detach(), torch.arange(3), temp)
    wanted = F.cross_entropy(image @ text.detach().t() / temp, torch.arange(3)) / 2
    (gradient,) = torch.autograd.grad(wanted, image)
    out.loss.backward()
    torch.testing.assert_close(image.grad, gradient)
    assert temp.grad is not None


def test_is_fp32_under_autocast():
    x = F.normalize(torch.randn(4, 8), dim=1)
    plain = contrastive_loss(x, x, x, x, torch.arange(4), torch.tensor(0.07))
    with torch.autocast('cpu', torch.bfloat16):
        out = contrastive_loss(x, x, x, x, torch.arange(4), torch.tensor(0.07))
    assert out.loss.dtype == torch.float32
    torch.testing.assert_close(out.loss, plain.loss)
