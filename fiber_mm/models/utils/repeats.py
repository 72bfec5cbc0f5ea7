"""Images that come several times in a row, as in an evaluation of captions: encoded once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fiber_mm.structures import ImageTrunk


def encode_once(
    encode: Callable[[Tensor], ImageTrunk], images: Tensor, samples: Sequence[Any]
) -> ImageTrunk:
    """The trunk of a batch in which neighbours may be the same image.

    Args:
        encode: From images to their trunk.
        images: (B, 3, H, W).
        samples: B samples. Neighbours of one ``img_path`` whose pixels are equal, too, share a
            trunk; of images without a path nothing is shared.
    Returns: the trunk of all B images, as ``encode(images)`` gives it.
    """
    owners = _owners(images, samples)
    count = owners[-1] + 1
    if count == len(owners):
        return encode(images)
    trunk = encode(torch.stack([images[owners.index(owner)] for owner in range(count)]))
    if count == 1:
        return trunk.repeat(len(owners))
    return ImageTrunk.cat([trunk.select(owner) for owner in owners])


def _owners(images: Tensor, samples: Sequence[Any]) -> list[int]:
    """For each image the number of the first of its run, runs counted from 0."""
    owners = [0]
    for i in range(1, len(samples)):
        path = samples[i].get('img_path')
        same = path is not None and path == samples[i - 1].get('img_path')
        owners.append(owners[-1] + (not (same and torch.equal(images[i], images[i - 1]))))
    return owners
