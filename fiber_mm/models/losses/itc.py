"""Image-text contrast (FIBER, section 3.2; ALBEF without its momentum encoder)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class ContrastOutput(NamedTuple):
    """What :func:`contrastive_loss` gives.

    Attributes:
        loss: Scalar in fp32.
        i2t: (B, C) similarities of the images to all texts, divided by the temperature.
        t2i: (B, C) those of the texts to all images.
    """

    loss: Tensor
    i2t: Tensor
    t2i: Tensor


def contrastive_loss(
    image: Tensor,
    text: Tensor,
    image_candidates: Tensor,
    text_candidates: Tensor,
    own: Tensor,
    temp: Tensor,
) -> ContrastOutput:
    """Cross-entropy of finding the own partner among the candidates, both ways, halved.

    Args:
        image, text: (B, D), of length 1.
        image_candidates, text_candidates: (C, D); detach them to have the original's gradients.
        own: (B,) int64, the place of each sample among the candidates.
        temp: Scalar that divides the similarities.
    """
    with torch.autocast(image.device.type, enabled=False):
        i2t = image.float() @ text_candidates.float().t() / temp
        t2i = text.float() @ image_candidates.float().t() / temp
        loss = (F.cross_entropy(i2t, own) + F.cross_entropy(t2i, own)) / 2
    return ContrastOutput(loss, i2t, t2i)
