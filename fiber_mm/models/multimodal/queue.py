"""Negatives from past batches: contrastive features and the raw inputs they came from."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

_FIELDS = ('image_features', 'text_features', 'pixels', 'input_ids', 'attention_mask')


class QueuedInputs(NamedTuple):
    """Inputs taken from the queue.

    Attributes:
        images: (N, 3, H, W), normalised.
        input_ids, attention_mask: (N, T).
    """

    images: Tensor
    input_ids: Tensor
    attention_mask: Tensor


class NegativeQueue:
    """A ring of features and raw inputs.

    The original keeps the normalised images as fp32 buffers in its checkpoints, 6.75 GiB at
    384 pixels. Here they are the 8-bit pixels that they were before normalisation (1.7 GiB),
    and outside of the state dict; :class:`fiber_mm.engine.FiberQueueHook` saves them for runs
    that are to be resumed. Nothing is allocated before the first batch, whose device, sizes and
    text length everything later must have.

    Args:
        size: Places.
        noise: Whether places not yet filled hold normal random numbers that take part in the
            contrast, as in the original. They are drawn from a seed of their own, alike on all
            ranks.
        mean, std: (3, 1, 1) of the images' normalisation, on the scale of 8-bit pixels. Without
            them images are kept as they come.

    Attributes:
        pointer: The next place to be written.
        total: Samples put in since the start; not capped by ``size``.
    """

    def __init__(
        self, size: int = 4096, noise: bool = True, mean: Tensor | None = None,
        std: Tensor | None = None,
    ) -> None:  # fmt: skip
        if size < 1:
            raise ValueError(f'a queue needs at least one place, got size={size}')
        if (mean is None) != (std is None):
            raise ValueError('give the queue both mean and std, or neither')
        self.size, self.noise, self.mean, self.std = size, noise, mean, std
        self.pointer = self.total = 0
        self._stored: dict[str, Tensor] = {}

    @property
    def filled(self) -> int:
        """Places that hold a sample."""
        return min(self.total, self.size)

    def features(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Contrastive features of images and texts, each (C, D).

        Args:
            like: (B, D) features of the batch, for width and device.
        Returns: all ``size`` places with ``noise``, else those that are filled.
        """
        if not self._stored and not self.noise:
            return like.new_zeros(0, like.shape[1]), like.new_zeros(0, like.shape[1])
        stored = self._on(like.device)
        if not stored:
            # Their own seed: ranks must agree, and no other random number may change.
            generator = torch.Generator().manual_seed(0)
            shape = (2, self.size, like.shape[1])
            noise = torch.randn(shape, generator=generator, device=generator.device)
            noise = noise.to(like.device)
            stored['image_features'], stored['text_features'] = noise.unbind()
        end = self.size if self.noise else self.filled
        return stored['image_features'][:end], stored['text_features'][:end]

    def inputs(self, image_index: Tensor, text_index: Tensor) -> QueuedInputs:
        """Images and texts of places, each index (N,) int64 below ``filled``."""
        stored = self._on(image_index.device)
        return QueuedInputs(
            self._normalise(stored['pixels'][image_index]),
            stored['input_ids'][text_index],
            stored['attention_mask'][text_index],
        )

    def check(self, images: Tensor, input_ids: Tensor) -> None:
        """Refuse a batch that does not suit what is there.

        Raises: ValueError: for images of another size, or texts of another length.
        """
        for name, value in dict(pixels=images, input_ids=input_ids).items():
            kept = self._stored.get(name)
            if kept is not None and kept.shape[1:] != value.shape[1:]:
                raise ValueError(
                    f'the queue holds {name} of shape {tuple(kept.shape[1:])}, the batch has '
                    f'{tuple(value.shape[1:])}: images must have one size and texts one length '
                    "(pad_to='max' in the data preprocessor)"
                )

    def put(
        self,
        image_features: Tensor,
        text_features: Tensor,
        pixels: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
    ) -> None:
        """Write a batch at the pointer, over the oldest samples.

        Args:
            image_features, text_features: (N, D).
            pixels: (N, 3, H, W), as :meth:`pixels_of` gives them.
            input_ids, attention_mask: (N, T).
        Raises: ValueError: if the batch is larger than the queue.
        """
        count = len(pixels)
        if count > self.size:
            raise ValueError(
                f'a batch of {count} samples (of all ranks) does not fit into a queue of '
                f'{self.size}: enlarge the queue or make the batch smaller'
            )
        self.features(image_features)  # allocates noise
        stored = self._on(pixels.device)
        place = (self.pointer + torch.arange(count, device=pixels.device)) % self.size
        values = (image_features, text_features, pixels, input_ids, attention_mask)
        for name, value in zip(_FIELDS, values):
            value = value.detach()
            if name not in stored:
                stored[name] = value.new_zeros(self.size, *value.shape[1:])
            kept = stored[name]
            kept[place] = value.to(kept.dtype)
        self.pointer = (self.pointer + count) % self.size
        self.total += count

    def pixels_of(self, images: Tensor) -> Tensor:
        """Normalised images as they are kept: (N, 3, H, W) uint8, exact for 8-bit images."""
        if self.mean is None:
            return images.detach()
        mean, std = self._scale(images.device)
        return (images.detach().float() * std + mean).round_().clamp_(0, 255).to(torch.uint8)

    def _normalise(self, pixels: Tensor) -> Tensor:
        if self.mean is None:
            return pixels
        mean, std = self._scale(pixels.device)
        return (pixels.float() - mean) / std

    def _scale(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """``mean`` and ``std``, moved once: a copy in every step would wait for the device."""
        if self.mean.device != device:
            self.mean, self.std = self.mean.to(device), self.std.to(device)
        return self.mean, self.std

    def _on(self, device: torch.device) -> dict[str, Tensor]:
        """What is stored, moved to ``device`` if it lies elsewhere (after a resume)."""
        if any(value.device != device for value in self._stored.values()):
            self._stored = {name: value.to(device) for name, value in self._stored.items()}
        return self._stored

    # ---- for resumed runs --------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything, filled places only where the rest is empty."""
        state: dict[str, Any] = dict(pointer=self.pointer, total=self.total, size=self.size)
        for name, value in self._stored.items():
            noise = self.noise and name.endswith('features')
            kept = value if noise else value[: self.filled]
            state[name] = kept.cpu().clone()  # a view would be saved with all its storage
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo :meth:`state_dict`.

        Raises: ValueError: if the queue that was saved has another size.
        """
        if state['size'] != self.size:
            raise ValueError(
                f'the checkpoint has a queue of {state["size"]} places, this model one of '
                f'{self.size}: resume with the settings that the run was started with'
            )
        self.pointer, self.total = state['pointer'], state['total']
        self._stored = {}
        for name in _FIELDS:
            if name not in state:
                continue
            value = state[name]
            kept = value.new_zeros(self.size, *value.shape[1:])
            kept[: len(value)] = value
            self._stored[name] = kept
