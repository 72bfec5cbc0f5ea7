import torch
import torch.nn.functional as F

from fiber_mm.models.losses.itm import draw, matching_loss, negative_weights


def test_weights_are_the_softmax_without_the_own_partner():
    similarity = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]], requires_grad=True)
    weights = negative_weights(similarity, torch.tensor([2, 0]))
    soft = similarity[0].softmax(0)
    torch.testing.assert_close(weights[0], torch.stack([soft[0], soft[1], soft.new_zeros(())]))
    torch.testing.assert_close(weights[1], torch.tensor([0.0, 1 / 3, 1 / 3]))
    assert not weights.requires_grad
    assert weights.min() > 0, 'the own partner keeps 1e-9, as in the original'


def test_draws_have_the_frequencies_of_the_weights():
    weights = torch.tensor([[0.0, 1.0, 3.0, 0.0, 4.0]])
    drawn = draw(weights.expand(20000, 5), torch.rand(20000))
    share = torch.bincount(drawn, minlength=5) / 20000
    torch.testing.assert_close(share, weights[0] / 8, rtol=0, atol=0.02)
    assert share[0] == 0
    assert share[3] == 0


def test_ends_of_the_interval():
    weights = torch.tensor([[0.0, 0.5, 0.5]]).expand(3, 3)
    below_one = torch.tensor(1.0).nextafter(torch.tensor(0.0))
    drawn = draw(weights, torch.stack([torch.tensor(0.0), torch.tensor(0.5), below_one]))
    assert drawn.tolist() == [1, 2, 2]


def test_matching_loss():
    logits = torch.randn(6, 2)
    wanted = F.cross_entropy(logits, torch.tensor([1, 1, 0, 0, 0, 0]))
    torch.testing.assert_close(matching_loss(logits, 2), wanted)
    assert matching_loss(logits.bfloat16(), 2).dtype == torch.float32
