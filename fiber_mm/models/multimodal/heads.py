"""Small heads of the coarse stage; parameter names are those of the original checkpoints."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def init_head(module: nn.Module) -> None:
    """Normal 0.02 for matrices, zero for biases, one for norms, as the original starts heads."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.LayerNorm):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)


class Pooler(nn.Module):
    """Dense and tanh on one vector per sample: (B, D) -> (B, D)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dense = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.dense(x))


class ITMHead(nn.Module):
    """Does the text match the image: (B, 2D) -> (B, 2), class 1 for a match."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc = nn.Linear(dim, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


class _MLMTransform(nn.Module):
    """Dense, GELU (exact) and LayerNorm: (..., D) -> (..., D)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dense = nn.Linear(dim, dim)
        # The original builds this head from a default configuration, whose epsilon this is;
        # the encoder's is 1e-5.
        self.LayerNorm = nn.LayerNorm(dim, eps=1e-12)

    def forward(self, x: Tensor) -> Tensor:
        return self.LayerNorm(F.gelu(self.dense(x)))


class MLMHead(nn.Module):
    """Scores of every word for every token; its matrix is not tied to the word embeddings.

    Args:
        dim: Width of the tokens.
        vocab_size: Number of words.
    """

    def __init__(self, dim: int, vocab_size: int) -> None:
        super().__init__()
        self.transform = _MLMTransform(dim)
        self.decoder = nn.Linear(dim, vocab_size, bias=False)
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., D) -> (..., vocab_size) logits."""
        return F.linear(self.transform(tokens), self.decoder.weight, self.bias)


def classifier(in_dim: int, hidden: int, classes: int) -> nn.Sequential:
    """Linear, LayerNorm, GELU, Linear: the head of VQA and of NLVR2."""
    return nn.Sequential(
        nn.Linear(in_dim, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, classes)
    )
