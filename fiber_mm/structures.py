"""What travels between the parts of the model.

Trunks are values: index them, repeat them, move them, save them, and fuse one with many
partners. Fields of the samples (``DetDataSample``) that fiber_mm adds:

=================================  ==========================================================
field                              meaning
=================================  ==========================================================
``text``                           caption (str) or class names (list or tuple of str)
``tokens_positive``                character spans of each entity of the caption, or None
``custom_entities``                whether a ``text`` of type str lists classes ("a . b . c")
``prompts``                        tokenised prompts, made by ``FiberDataPreprocessor``
``gt_instances.positive_map``      (G, T) bool, the tokens that describe each box
``pred_instances.label_names``     the text that each predicted box was found for
=================================  ==========================================================
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class _Batched:
    """Acts on every tensor of a NamedTuple; dimension 0 of each is the batch."""

    def map(self, function) -> Any:
        """A trunk with ``function`` applied to every tensor."""
        return type(self)(
            *(
                tuple(function(t) for t in value) if isinstance(value, tuple) else function(value)
                for value in self
            )
        )

    def __getitem__(self, index: Any) -> Any:
        """See :meth:`select`; fields have names, and come in their order by iteration."""
        return self.select(index)

    def select(self, index: Any) -> Any:
        """The samples chosen: by an int (kept as a batch of one), a slice, a list or a tensor."""
        if getattr(index, 'ndim', None) == 0:  # a number of NumPy's or a tensor with one
            index = operator.index(index)
        if isinstance(index, int):
            size = len(next(iter(self)))
            if not -size <= index < size:
                raise IndexError(f'sample {index} of a trunk that holds {size}')
            index = slice(index % size, index % size + 1)
        return self.map(lambda t: t[index])

    def repeat(self, times: int) -> Any:
        """Every sample ``times`` times in a row: a, a, b, b; a batch of one is not copied."""
        if len(next(iter(self))) == 1:
            return self.map(lambda t: t.expand(times, *t.shape[1:]))
        return self.map(lambda t: t.repeat_interleave(times, dim=0))

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """``Tensor.to`` for every tensor; a dtype changes floating-point tensors only."""
        dtypes = [a for a in (*args, *kwargs.values()) if isinstance(a, torch.dtype)]
        if not dtypes:
            return self.map(lambda t: t.to(*args, **kwargs))
        others = [a for a in args if not isinstance(a, torch.dtype)]
        keywords = {k: v for k, v in kwargs.items() if not isinstance(v, torch.dtype)}

        def move(t: Tensor) -> Tensor:
            dtype = dtypes[0] if t.is_floating_point() else t.dtype
            return t.to(*others, dtype=dtype, **keywords)

        return self.map(move)

    @classmethod
    def cat(cls, parts: Sequence[Any]) -> Any:
        """One batch of several, of one shape beside the number of samples."""
        return cls(
            *(
                tuple(map(torch.cat, zip(*values)))
                if isinstance(values[0], tuple)
                else torch.cat(values)
                for values in zip(*parts)
            )
        )

    def detach(self) -> Any:
        """Cut off from the graph."""
        return self.map(Tensor.detach)

    def state_dict(self) -> dict[str, Any]:
        """Plain tensors, to be stored by ``torch.save`` and read with ``weights_only=True``."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in self._asdict().items()}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> Any:
        """Undoes :meth:`state_dict`.

        Raises: KeyError: if the fields are not those of this kind of trunk.
        """
        if set(state) != set(cls._fields):
            raise KeyError(
                f'a {cls.__name__} has the fields {sorted(cls._fields)}, got {sorted(state)}'
            )
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in state.items()})


class _ImageTrunk(NamedTuple):
    tokens: Tensor
    stage_maps: tuple[Tensor, ...]


class ImageTrunk(_Batched, _ImageTrunk):
    """An image before the first fused block.

    Attributes:
        tokens: (B, H, W, C), input of the first fused block.
        stage_maps: (B, C_s, H_s, W_s) of each stage that no fused block belongs to.
    """

    __slots__ = ()


class _TextTrunk(NamedTuple):
    tokens: Tensor
    mask: Tensor


class TextTrunk(_Batched, _TextTrunk):
    """A text before the first fused layer.

    Attributes:
        tokens: (B, T, D), input of the first fused layer.
        mask: (B, T) bool, True for tokens, False for padding.
    """

    __slots__ = ()


class TextBatch(NamedTuple):
    """The texts of a batch as ids, made by ``FiberImageTextPreprocessor``.

    Attributes:
        input_ids: (B, T) int64.
        attention_mask: (B, T) bool, True for tokens.
        masked_ids: (B, T) int64, the same with words hidden for MLM; None without them.
        masked_positions: (M,) int64, where words are to be guessed, counted over the flattened
            (B, T); made on the host, so that no step waits for the device to know M.
        masked_labels: (M,) int64, the right words there.
    """

    input_ids: Tensor
    attention_mask: Tensor
    masked_ids: Tensor | None = None
    masked_positions: Tensor | None = None
    masked_labels: Tensor | None = None


class ImageFeatures(NamedTuple):
    """An image encoded alone.

    Attributes:
        stage_maps: (B, C_s, H_s, W_s) of every stage.
        tokens: (B, N, C) of the last stage, after the final LayerNorm where there is one.
    """

    stage_maps: tuple[Tensor, ...]
    tokens: Tensor


class FusedFeatures(NamedTuple):
    """An image and a text after fusion.

    Attributes:
        stage_maps: (B, C_s, H_s, W_s) of every stage, with the stages' output norms.
        image_tokens: (B, N, C) of the last stage, without any norm behind the last block.
        text_tokens: (B, T, D).
        text_mask: (B, T) bool.
    """

    stage_maps: tuple[Tensor, ...]
    image_tokens: Tensor
    text_tokens: Tensor
    text_mask: Tensor
