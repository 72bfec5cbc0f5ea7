"""From cross-attention to maps over an image: which words, which pixels, which scale. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fiber_mm.core.recording import CrossAttention

#: A map whose values differ by less than this share of the greatest one has no peak.
FLAT = 1e-5


def token_maps(pair: CrossAttention, direction: str, gradient: Tensor | None = None) -> Tensor:
    """One map for each token, averaged over heads.

    Args:
        pair: Probabilities of a fused pair.
        direction: ``'i2t'``: how much each place attends to the token; ``'t2i'``: how much the
            token attends to each place.
        gradient: Of a score with respect to these probabilities, in their shape: each is then
            weighted with its positive part, as in ALBEF (Li et al. 2021, section 6.4), after
            Grad-CAM (Selvaraju et al. 2017).

    Returns:
        (B, T, H, W) float32, not negative.
    """
    probs = getattr(pair, direction).detach().float()
    if gradient is not None:
        probs = probs * gradient.float().clamp(min=0)
    maps = probs.mean(1)
    maps = maps.transpose(1, 2) if direction == 'i2t' else maps
    return maps.unflatten(-1, pair.size)


def phrase_maps(maps: Tensor, token_map: Tensor) -> Tensor:
    """The average over the tokens of each phrase.

    Args:
        maps: (T, H, W).
        token_map: (P, T) bool; row p marks the tokens of phrase p.

    Returns:
        (P, H, W); 0 for a phrase without tokens.
    """
    weights = token_map.to(maps.dtype)
    weights = weights / weights.sum(-1, keepdim=True).clamp(min=1)
    return (weights @ maps.flatten(1)).unflatten(-1, maps.shape[1:])


def to_pixels(maps: Tensor, cell: int, shown: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Maps of cells to maps of the original image's pixels, bilinearly.

    Args:
        maps: (P, h, w); cell (0, 0) covers the top left corner of the model's input.
        cell: Side of a cell in pixels of the model's input.
        shown: Height and width of the resized image within that input; below and to the right of
            it there is padding, which is cut off.
        size: Height and width of the original image.

    Returns:
        (P, *size). A pixel has the value at its centre; beyond the centres of the outermost cells
        the maps go on level.
    """
    axes = []
    for cells, inside, pixels in zip(maps.shape[-2:], shown, size):
        centre = (torch.arange(pixels, device=maps.device, dtype=maps.dtype) + 0.5) / pixels
        axes.append(centre * (2 * inside / (cells * cell)) - 1)  # of the whole map: -1 to 1
    y, x = torch.meshgrid(*axes, indexing='ij')
    grid = torch.stack([x, y], -1)[None]
    out = F.grid_sample(maps[None], grid, 'bilinear', 'border', align_corners=False)
    return out[0]


def combine(maps: Sequence[Tensor]) -> Tensor:
    """The average of several maps of each phrase, in [0, 1].

    Probabilities over words and over places, and over few or many places, have scales of their
    own; so each map enters in multiples of its mean. The result is stretched from 0 at its lowest
    to 1 at its highest place.

    Args:
        maps: (P, H, W) each, not negative.

    Returns:
        (P, H, W); 0 everywhere where no place stands out (a phrase without tokens, shut gates).
    """
    tiny = torch.finfo(maps[0].dtype).tiny
    total = sum(m / m.mean((-2, -1), keepdim=True).clamp(min=tiny) for m in maps)
    low, high = total.amin((-2, -1), keepdim=True), total.amax((-2, -1), keepdim=True)
    spread = high - low
    stretched = (total - low) / spread.clamp(min=tiny)
    return torch.where(spread > FLAT * high, stretched, torch.zeros_like(stretched))
