"""Character spans to token maps, and token probabilities to class scores.

Pure functions on tensors and tokenizer encodings: no tokenizer is loaded here.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

Span = tuple[int, int]


class CharEncoding(Protocol):
    """What is needed of a tokenizer's output (fast tokenizers of Hugging Face have it)."""

    def char_to_token(self, char_index: int) -> int | None:
        """Token of a character, or None where no token covers it."""


def _token_at(encoding: CharEncoding, char_index: int) -> int | None:
    # The Rust side refuses negative numbers with an OverflowError.
    return encoding.char_to_token(char_index) if char_index >= 0 else None


def _first_token(encoding: CharEncoding, positions: Sequence[int]) -> int | None:
    for position in positions:
        token = _token_at(encoding, position)
        if token is not None:
            return token
    return None


def spans_to_token_map(
    encoding: CharEncoding, spans: Sequence[Sequence[Span]], num_tokens: int
) -> Tensor:
    """Mark the tokens of each entity.

    The rules are those of the original (and of MDETR, GLIP): a span runs from the token of its
    first character to the token of its last one. Where no token covers that character (a byte-
    level BPE leaves blanks out), the next two characters, or the two before the last, are asked.
    All tokens between are positive; a span for which this fails marks nothing.

    Args:
        encoding: The tokenised prompt, special tokens included.
        spans: For each entity its half-open character spans ``[start, end)``.
        num_tokens: T, the number of columns; tokens at or beyond it are left out.

    Returns:
        (C, T) bool, on the CPU.
    """
    token_map = torch.zeros(len(spans), num_tokens, dtype=torch.bool)
    for row, entity_spans in enumerate(spans):
        for start, end in entity_spans:
            first = _first_token(encoding, (start, start + 1, start + 2))
            last = _first_token(encoding, (end - 1, end - 2, end - 3))
            if first is not None and last is not None:
                token_map[row, first : last + 1] = True
    return token_map


def token_to_class_scores(probs: Tensor, token_map: Tensor) -> Tensor:
    """Mean token probability of each class: one matrix product, always in fp32.

    Args:
        probs: (B, A, T), probabilities in [0, 1].
        token_map: (C, T) or (B, C, T) bool; row c marks the tokens of class c.

    Returns:
        (B, A, C) float32; 0 for a class without tokens.

    Raises:
        ValueError: If the shapes do not fit each other.
    """
    if token_map.shape[-1] != probs.shape[-1]:
        raise ValueError(
            f'token_map has {token_map.shape[-1]} tokens, probs has {probs.shape[-1]}: '
            'both must come from the same padded prompt'
        )
    if token_map.dim() not in (2, 3) or (
        token_map.dim() == 3 and token_map.shape[0] != probs.shape[0]
    ):
        raise ValueError(
            f'token_map of shape {tuple(token_map.shape)} is neither (C, T) nor (B, C, T) '
            f'with B = {probs.shape[0]}'
        )
    # Scores are compared with thresholds and ranked: bf16 products would tie many of them.
    with torch.autocast(device_type=probs.device.type, enabled=False):
        weights = token_map.float()
        weights = weights / weights.sum(-1, keepdim=True).clamp(min=1)
        return probs.float() @ weights.transpose(-1, -2)
