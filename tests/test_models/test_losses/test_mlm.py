import pytest
import torch
import torch.nn.functional as F

from fiber_mm.models.losses.mlm import masked_token_loss


def test_is_the_mean_over_hidden_words():
    logits, labels = torch.randn(5, 9), torch.randint(9, (5,))
    torch.testing.assert_close(
        masked_token_loss(logits, labels, 5.0), F.cross_entropy(logits, labels)
    )
    torch.testing.assert_close(
        masked_token_loss(logits, labels, torch.tensor(10.0)), F.cross_entropy(logits, labels) / 2
    )


@pytest.mark.parametrize('count', [0.0, torch.tensor(0.0)])
def test_nothing_hidden_gives_zero_with_a_gradient(count):
    logits = torch.randn(0, 9, requires_grad=True)
    loss = masked_token_loss(logits, torch.zeros(0, dtype=torch.int64), count)
    loss.backward()
    assert loss == 0
