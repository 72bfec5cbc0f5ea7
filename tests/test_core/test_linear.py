"""Both formulations of a linear layer."""

import pytest
import torch
import torch.nn.functional as F

from fiber_mm.core import linear as module
from fiber_mm.core.linear import Linear, fastest_backend, linear, set_linear_backend


@pytest.fixture(params=module.BACKENDS)
def backend(request):
    previous = set_linear_backend(request.param)
    yield request.param
    set_linear_backend(previous)


@pytest.mark.parametrize('shape', [(5, 6), (2, 3, 6), (2, 3, 4, 6), (0, 6)])
def test_every_backend_gives_the_numbers_of_f_linear(backend, shape):
    torch.manual_seed(0)
    x = torch.randn(shape, requires_grad=True)
    layer = Linear(6, 7)
    out = layer(x)
    wanted = F.linear(x, layer.weight, layer.bias)
    torch.testing.assert_close(out, wanted)
    grad = torch.randn_like(out)
    inputs = (x, layer.weight, layer.bias)
    torch.testing.assert_close(
        torch.autograd.grad(out, inputs, grad), torch.autograd.grad(wanted, inputs, grad)
    )


def test_no_bias_and_inputs_that_are_not_contiguous(backend):
    torch.manual_seed(0)
    x, weight = torch.randn(4, 9, 6)[:, 1:6], torch.randn(3, 6)
    torch.testing.assert_close(linear(x, weight), x @ weight.t())


def test_autocast_is_followed(backend):
    layer = Linear(6, 7)
    with torch.autocast('cpu', torch.bfloat16):
        out = layer(torch.randn(4, 6))
    assert out.dtype == torch.bfloat16


def test_the_measurement_gives_a_formulation_and_is_made_once():
    assert fastest_backend(torch.float32) in ('linear', 'conv')
    assert fastest_backend(torch.float32) == fastest_backend(torch.float32)
    assert fastest_backend.cache_info().hits


def test_set_linear_backend_returns_the_one_before_and_refuses_others():
    before = set_linear_backend('conv')
    assert set_linear_backend(before) == 'conv'
    with pytest.raises(ValueError, match='onednn'):
        set_linear_backend('onednn')
