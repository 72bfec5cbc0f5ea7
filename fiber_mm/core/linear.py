"""Linear layers in the formulation that is fastest on the machine at hand.

On CPUs a linear layer can run as ``addmm`` (MKL) or as a 1x1 convolution (oneDNN); both
give the same numbers up to rounding, and which one is faster depends on the processor.
``FIBER_LINEAR`` in the environment or :func:`set_linear_backend` chooses:

- ``linear`` (default): ``torch.nn.functional.linear``;
- ``conv``: the 1x1 convolution on CPU tensors;
- ``auto``: whichever wins in a measurement of a fraction of a second, made once per process
  and precision. Under bf16 autocast it also tries products in fp32 between activations in bf16:
  CPUs without bf16 instructions are several times faster so. Two runs may choose differently,
  so their last bits may differ.

Other devices than the CPU always use ``torch.nn.functional.linear``.
"""

from __future__ import annotations

import functools
import itertools
import os
import time
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BACKENDS = ('linear', 'conv', 'auto')
# Tokens in the measurement of ``auto``: enough for products to reach their full rate.
ROWS = 1100
_backend = os.environ.get('FIBER_LINEAR', 'linear')


class Formulation(NamedTuple):
    """How a linear layer runs on a CPU.

    Attributes:
        conv: As a 1x1 convolution.
        wide: In fp32, between activations of the autocast type.
    """

    conv: bool = False
    wide: bool = False


def set_linear_backend(name: str) -> str:
    """Chooses the formulation (see the module's text); returns the one that was set before.

    Raises: ValueError: if ``name`` is none of ``linear``, ``conv``, ``auto``.
    """
    global _backend
    if name not in BACKENDS:
        raise ValueError(f'linear backend {name!r} is unknown; choose one of {", ".join(BACKENDS)}')
    previous, _backend = _backend, name
    return previous


def _as_conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    rows = x.reshape(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)
    out = F.conv2d(rows, weight[:, :, None, None], bias)
    return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], weight.shape[0])


def _run(how: Formulation, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product = _as_conv if how.conv else F.linear
    if not how.wide:
        return product(x, weight, bias)
    dtype = torch.get_autocast_dtype('cpu') if torch.is_autocast_enabled('cpu') else x.dtype
    with torch.autocast('cpu', enabled=False):
        bias = None if bias is None else bias.float()
        return product(x.float(), weight.float(), bias).to(dtype)


@functools.cache
def fastest(dtype: torch.dtype) -> Formulation:
    """The best formulation for activations of ``dtype``, measured at Swin-B's commonest sizes."""
    low = dtype in (torch.bfloat16, torch.float16)
    choices = itertools.starmap(
        Formulation, itertools.product((False, True), (False, True) if low else (False,))
    )
    with torch.inference_mode(), torch.autocast('cpu', enabled=False):
        cases = [
            tuple(torch.ones(shape, dtype=dtype) for shape in ((ROWS, i), (o, i), (o,)))
            for i, o in ((512, 2048), (2048, 512))
        ]
        # oneDNN's buffers cost memory: equal times do not pay.
        seconds = {how: _seconds(how, cases) * (1.1 if how.conv else 1) for how in choices}
    return min(seconds, key=seconds.get)


def _seconds(how: Formulation, cases: list[tuple[Tensor, ...]], repeats: int = 4) -> float:
    best = float('inf')
    for _ in range(repeats):
        start = time.perf_counter()
        for case in cases:
            _run(how, *case)
        best = min(best, time.perf_counter() - start)
    return best


def wants_fp32(device: torch.device) -> bool:
    """Whether convolutions, too, should leave the autocast region that they are in.

    True with ``auto`` on a CPU whose products in the autocast type are slower than in fp32.
    """
    if _backend != 'auto' or device.type != 'cpu' or not torch.is_autocast_enabled('cpu'):
        return False
    return fastest(torch.get_autocast_dtype('cpu')).wide


def _formulation(x: Tensor) -> Formulation:
    if _backend == 'linear' or x.device.type != 'cpu' or not x.numel():
        return Formulation()
    if _backend == 'conv':
        return Formulation(conv=True)
    autocast = torch.is_autocast_enabled('cpu')
    return fastest(torch.get_autocast_dtype('cpu') if autocast else x.dtype)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias`` over the last dimension.

    Args:
        x: (..., in). A non-contiguous ``x`` is copied, since ``F.linear`` would otherwise
            fall back to batched products.
        weight: (out, in).
        bias: (out,) or None.
    Returns: (..., out).
    """
    x = x.contiguous()
    return _run(_formulation(x), x, weight, bias)


def matrix_std(std: float | None, fan_in: int) -> float:
    """Spread of a new matrix: ``std``, or 0.8 / sqrt(fan-in) where it is None."""
    return 0.8 / fan_in**0.5 if std is None else std


class Linear(nn.Linear):
    """``nn.Linear`` through :func:`linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


if _backend not in BACKENDS:
    raise ValueError(f'FIBER_LINEAR={_backend!r} is unknown; choose one of {", ".join(BACKENDS)}')
