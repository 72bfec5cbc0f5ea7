"""A pre-training step in each of two processes."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from mmengine.model import MMDistributedDataParallel
from torch import nn

import fiber_mm  # noqa: F401  (registers the model)
from fiber_mm.registry import MODELS

from .toy import PRETRAIN, batch, part

PAIRS, STEPS = 6, 2


def build(settings: dict) -> nn.Module:
    """The same model in every process."""
    torch.manual_seed(3)
    return MODELS.build(dict(PRETRAIN, **settings)).train()


def train(model: nn.Module, rows: slice, seed: int) -> dict:
    """Losses and gradients of some rows of a batch, after one step that fills the queue."""
    for step in range(STEPS):
        torch.manual_seed(seed + step)
        model.zero_grad()
        images, texts = part(*batch(PAIRS, seed=step), rows)
        losses = model(images=images, texts=texts, mode='loss')
        sum(value for name, value in losses.items() if name.startswith('loss_')).backward()
    plain = getattr(model, 'module', model)
    grads = {n: p.grad.clone() for n, p in plain.named_parameters() if p.grad is not None}
    return dict(
        losses={name: value.detach() for name, value in losses.items()},
        grads=grads,
        queue=None if plain.queue is None else plain.queue.state_dict(),
    )


def run(rank: int, world: int, port: int, settings: dict, folder: str) -> None:
    """One rank; what comes out lies in ``folder``."""
    os.environ.update(
        MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), WORLD_SIZE=str(world), RANK=str(rank),
        LOCAL_RANK=str(rank), CUDA_VISIBLE_DEVICES='',
    )  # fmt: skip
    torch.distributed.init_process_group('gloo')
    unused = 'losses' in settings  # some of the encoder's norms serve the contrast alone
    model = MMDistributedDataParallel(build(settings), find_unused_parameters=unused)
    # Each rank has random numbers of its own, as in training.
    torch.save(train(model, slice(rank, None, world), 100 * rank), Path(folder) / f'{rank}.pth')
    torch.distributed.destroy_process_group()
