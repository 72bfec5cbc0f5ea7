"""Focal loss over the tokens of a prompt."""

import torch
import torch.nn.functional as F
from torch import Tensor


def token_focal_loss(
    logits: Tensor,
    targets: Tensor,
    text_mask: Tensor | None = None,
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> Tensor:
    """Sum of the binary focal loss (Lin et al.) of every anchor with every unpadded token.

    Args:
        logits: (B, A, T).
        targets: (B, A, T) bool.
        text_mask: (B, T) bool, False marks padding; None counts all tokens.
        alpha: Weight of positive pairs; negative ones get ``1 - alpha``.
        gamma: Exponent that fades out easy pairs.

    Returns:
        Scalar in fp32.
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits = logits.float()
        # The logit of the right answer.
        right = torch.where(targets, logits, -logits)
        weight = torch.where(targets, alpha, 1 - alpha)
        if text_mask is not None:
            weight = weight * text_mask[:, None]
        return -(weight * torch.sigmoid(-right) ** gamma * F.logsigmoid(right)).sum()
