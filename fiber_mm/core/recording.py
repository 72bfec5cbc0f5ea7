"""The probabilities of the cross-attentions, for those who want to look at them.

The encoder computes attention by ``scaled_dot_product_attention``, which keeps no probabilities.
While a recording is on, the cross-attentions of the fused pairs (and they alone) are written out:
same results within rounding, at the price of the probabilities' memory. Nothing is kept, and
nothing costs anything, without one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from fiber_mm.core.attention import Probe
from fiber_mm.core.encoder import FiberEncoder


class CrossAttention(NamedTuple):
    """Both cross-attentions of a fused pair, as they entered the computation.

    Attributes:
        i2t: (B, heads, H * W, T), for each place of the image the shares of the words.
        t2i: (B, heads, T, H * W), for each word the shares of the places.
        size: H and W of the block's map.
    """

    i2t: Tensor
    t2i: Tensor
    size: tuple[int, int]


@contextmanager
def record_cross_attention(encoder: FiberEncoder) -> Iterator[list[CrossAttention]]:
    """Keep the probabilities of what :meth:`FiberEncoder.fuse` does meanwhile.

        with record_cross_attention(encoder) as record:
            fused = encoder.fuse(image_trunk, text_trunk)
        torch.autograd.grad(score_of(fused), record[-1].i2t)

    Where gradients are on, a score has a gradient with respect to every probability, even if
    all parameters are frozen.

    Yields: a list that gets one entry for each fused pair, in their order, with every ``fuse``.
    Raises:
        RuntimeError: if a recording of this encoder is on already.
        ValueError: if the encoder has no fused blocks, or would compute them twice
            (``checkpoint`` in training).
    """
    if not encoder.plan.pairs:
        raise ValueError('the encoder has no fused blocks, so there is no cross-attention')
    if encoder.cfg.checkpoint and encoder.training:
        raise ValueError(
            'in training with checkpoint=True the backward pass computes the blocks again, with '
            'probabilities of their own: call eval() first, or set checkpoint=False'
        )
    record: list[CrossAttention] = []
    with ExitStack() as stack:
        for pair in encoder.plan.pairs:
            block = encoder.image.layers[pair.stage].blocks[pair.block]
            slot = _Slot(record)
            hook = block.register_forward_pre_hook(slot.see_map)
            stack.callback(hook.remove)
            text = encoder.text.encoder.layer[pair.layer].crossattention_t2i.self
            stack.enter_context(_probing(block.attn, slot.see_i2t))
            stack.enter_context(_probing(text, slot.see_t2i))
        yield record


class _Slot:
    """Collects what belongs to one pair: first the block's side, then the layer's."""

    def __init__(self, record: list[CrossAttention]) -> None:
        self.record, self.size, self.i2t = record, None, None

    def see_map(self, _, inputs: tuple) -> None:
        self.size, self.i2t = tuple(inputs[0].shape[1:3]), None

    def see_i2t(self, probs: Tensor) -> None:
        self.i2t = _differentiable(probs)

    def see_t2i(self, probs: Tensor) -> None:
        if self.i2t is None:
            raise RuntimeError('only fuse is recorded, in which the image attends to the text, too')
        self.record.append(CrossAttention(self.i2t, _differentiable(probs), self.size))
        self.i2t = None


@contextmanager
def _probing(module: torch.nn.Module, probe: Probe) -> Iterator[None]:
    if module.probe is not None:
        raise RuntimeError('this encoder is being recorded already: one recording at a time')
    module.probe = probe
    try:
        yield
    finally:
        del module.probe


def _differentiable(probs: Tensor) -> Tensor:
    """With a gradient of its own where nothing before it has one."""
    if torch.is_grad_enabled() and not probs.requires_grad:
        probs.requires_grad_()
    return probs
