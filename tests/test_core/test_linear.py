"""Both formulations of a linear layer."""

import runpy

import pytest
import torch
import torch.nn.functional as F

from fiber_mm.core import linear as module
from fiber_mm.core.linear import (
    Formulation,
    Linear,
    fastest,
    linear,
    set_linear_backend,
    wants_fp32,
)


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


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_the_measurement_gives_a_formulation_and_is_made_once(dtype, monkeypatch):
    monkeypatch.setattr(module, 'ROWS', 8)
    fastest.cache_clear()
    how = fastest(dtype)
    assert dtype == torch.bfloat16 or not how.wide
    assert fastest(dtype) is how
    fastest.cache_clear()


@pytest.mark.parametrize('conv', [False, True])
@pytest.mark.parametrize('has_bias', [False, True])
def test_products_in_fp32_between_activations_in_bf16(conv, has_bias):
    torch.manual_seed(0)
    x, layer = torch.randn(2, 5, 16).bfloat16(), Linear(16, 24, bias=has_bias)
    with torch.autocast('cpu', torch.bfloat16):
        out = module._run(Formulation(conv, wide=True), x, layer.weight, layer.bias)
    assert out.dtype == torch.bfloat16
    wanted = F.linear(x.float(), layer.weight, layer.bias)
    torch.testing.assert_close(out, wanted.bfloat16(), rtol=2**-7, atol=1e-5)
    out.float().sum().backward()
    assert layer.weight.grad.dtype == torch.float32


def test_convolutions_leave_an_autocast_that_is_slower_than_fp32(backend, monkeypatch):
    monkeypatch.setattr(module, 'fastest', lambda dtype: Formulation(wide=True))
    cpu = torch.device('cpu')
    assert not wants_fp32(cpu)
    with torch.autocast('cpu', torch.bfloat16):
        assert wants_fp32(cpu) == (backend == 'auto')
        assert not wants_fp32(torch.device('cuda'))


def test_the_environment_chooses(monkeypatch):
    def backend(value):
        monkeypatch.setenv('FIBER_LINEAR', value)
        return runpy.run_path(module.__file__)['_backend']

    assert backend('conv') == 'conv'
    with pytest.raises(ValueError, match="FIBER_LINEAR='onednn' is unknown; choose one of"):
        backend('onednn')


def test_set_linear_backend_returns_the_one_before_and_refuses_others():
    before = set_linear_backend('conv')
    assert set_linear_backend(before) == 'conv'
    with pytest.raises(ValueError, match='onednn'):
        set_linear_backend('onednn')
