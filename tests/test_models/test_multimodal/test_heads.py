import torch
import torch.nn.functional as F

from fiber_mm.models.multimodal.heads import ITMHead, MLMHead, Pooler, classifier, init_head


def test_mlm_head_follows_its_formula():
    head = MLMHead(6, 11)
    init_head(head)
    torch.nn.init.normal_(head.bias)
    x = torch.randn(2, 3, 6)
    hidden = F.gelu(F.linear(x, head.transform.dense.weight, head.transform.dense.bias))
    hidden = (hidden - hidden.mean(-1, keepdim=True)) / (
        hidden.var(-1, unbiased=False, keepdim=True) + 1e-12
    ).sqrt()
    torch.testing.assert_close(
        head(x), hidden @ head.decoder.weight.t() + head.bias, rtol=1e-4, atol=1e-5
    )


def test_mlm_head_keeps_tiny_features_apart():
    """The epsilon is 1e-12: a larger one would flatten small activations."""
    head = MLMHead(6, 11)
    with torch.no_grad():
        head.transform.dense.weight.mul_(1e-3)
        head.transform.dense.bias.zero_()
    hidden = head.transform(torch.randn(4, 6))
    torch.testing.assert_close(hidden.std(-1, unbiased=False), torch.ones(4), rtol=1e-3, atol=0)


def test_names_are_those_of_the_checkpoints():
    assert set(MLMHead(6, 11).state_dict()) == {
        'bias',
        'decoder.weight',
        'transform.dense.weight',
        'transform.dense.bias',
        'transform.LayerNorm.weight',
        'transform.LayerNorm.bias',
    }
    assert set(ITMHead(6).state_dict()) == {'fc.weight', 'fc.bias'}
    assert set(Pooler(6).state_dict()) == {'dense.weight', 'dense.bias'}
    assert {k.split('.')[0] for k in classifier(6, 8, 3).state_dict()} == {'0', '1', '3'}


def test_shapes():
    x = torch.randn(5, 6)
    assert Pooler(6)(x).abs().max() < 1
    assert ITMHead(6)(x).shape == (5, 2)
    assert classifier(6, 8, 3)(x).shape == (5, 3)
