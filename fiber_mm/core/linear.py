"""Linear layers in the formulation that is fastest on the machine at hand.

On CPUs a linear layer can run as ``addmm`` (MKL) or as a 1x1 convolution (oneDNN); both
give the same numbers up to rounding, and which one is faster depends on the processor.
``FIBER_LINEAR`` in the environment or :func:`set_linear_backend` chooses:

- ``linear`` (default): ``torch.nn.functional.linear``;
- ``conv``: the 1x1 convolution on CPU tensors;
- ``auto``: whichever wins in a measurement of a fraction of a second, made once per process
  and precision. Two runs may then choose differently, so their last bits may differ.

Other devices than the CPU always use ``torch.nn.functional.linear``.
"""

from __future__ import annotations

import functools
import os
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BACKENDS = ('linear', 'conv', 'auto')
_backend = os.environ.get('FIBER_LINEAR', 'linear')


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


@functools.cache
def fastest_backend(dtype: torch.dtype) -> str:
    """``linear`` or ``conv``, by a short measurement at Swin-B's commonest sizes."""
    seconds = {}
    with torch.inference_mode(), torch.autocast('cpu', enabled=False):
        cases = [
            tuple(torch.ones(shape, dtype=dtype) for shape in ((1100, i), (o, i), (o,)))
            for i, o in ((512, 2048), (2048, 512))
        ]
        for name, function in (('linear', F.linear), ('conv', _as_conv)):
            best = float('inf')
            for _ in range(4):
                start = time.perf_counter()
                for case in cases:
                    function(*case)
                best = min(best, time.perf_counter() - start)
            seconds[name] = best
    return min(seconds, key=seconds.get)


def _wants_conv(x: Tensor) -> bool:
    if _backend == 'linear' or x.device.type != 'cpu' or not x.numel():
        return False
    if _backend == 'conv':
        return True
    autocast = torch.is_autocast_enabled('cpu')
    return fastest_backend(torch.get_autocast_dtype('cpu') if autocast else x.dtype) == 'conv'


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
    return _as_conv(x, weight, bias) if _wants_conv(x) else F.linear(x, weight, bias)


def matrix_std(std: float | None, fan_in: int) -> float:
    """Spread of a new matrix: ``std``, or 0.8 / sqrt(fan-in) where it is None."""
    return 0.8 / fan_in**0.5 if std is None else std


class Linear(nn.Linear):
    """``nn.Linear`` through :func:`linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


if _backend not in BACKENDS:
    raise ValueError(f'FIBER_LINEAR={_backend!r} is unknown; choose one of {", ".join(BACKENDS)}')
