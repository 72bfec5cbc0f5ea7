"""Batches of all ranks as one, in the order in which one process would have seen them."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.dist import all_gather, get_dist_info
from torch import Tensor
from torch import distributed as dist
from torch.distributed.nn.functional import all_gather as all_gather_with_grad


def gather_batch(x: Tensor, with_grad: bool = False) -> Tensor:
    """Concatenate a tensor over the ranks.

    Samples interleave (rank 0's first, rank 1's first, ..., rank 0's second, ...): our samplers
    deal a stream out to the ranks, and this puts it together again.

    Args:
        x: (B, ...), of one shape on all ranks.
        with_grad: Whether gradients flow back to the rank that each sample came from: each gets
            the sum over the ranks, of which DDP then takes the mean, as one process would.

    Returns:
        (B * world size, ...); ``x`` itself in a single process.
    """
    _, world = get_dist_info()
    if world == 1:
        return x
    if with_grad and x.requires_grad:
        parts = all_gather_with_grad(x)
    else:
        parts = all_gather(x.detach().contiguous())
    return torch.stack(tuple(parts), 1).flatten(0, 1)


class _GatherRanks(torch.autograd.Function):
    """(B, ...) of each rank -> (world size * B, ...), rank after rank; one buffer each way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = x.new_empty(dist.get_world_size() * len(x), *x.shape[1:])
        dist.all_gather_into_tensor(out, x.contiguous())
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        out = grad.new_empty(len(grad) // dist.get_world_size(), *grad.shape[1:])
        dist.reduce_scatter_tensor(out, grad.contiguous())
        return out


def select_gathered(x: Tensor, index: Tensor) -> Tensor:
    """``gather_batch(x, with_grad=True)[index]``, for large tensors: held once, not twice.

    Args:
        x: (B, ...), of one shape on all ranks.
        index: (N,) int64, places in :func:`gather_batch`'s order.

    Returns:
        (N, ...).
    """
    _, world = get_dist_info()
    if world == 1:
        return x[index]
    return _GatherRanks.apply(x)[index % world * len(x) + index // world]


def places_in_gathered(batch: int, device: torch.device) -> Tensor:
    """(batch,) int64: where this rank's samples stand in :func:`gather_batch`'s result."""
    rank, world = get_dist_info()
    return torch.arange(batch, device=device) * world + rank
