"""Words to be guessed."""

# The host stack's transforms draw from NumPy's global generator, which the engine seeds.
# ruff: noqa: NPY002

from __future__ import annotations

import os
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform

from fiber_mm.models.data_preprocessors.text import PromptTokenizer
from fiber_mm.registry import TRANSFORMS

#: What cross-entropy leaves out.
IGNORED = -100


def mask_tokens(
    ids: np.ndarray, special: np.ndarray, mask_id: int, vocab_size: int, prob: float
) -> tuple[np.ndarray, np.ndarray]:
    """Hide tokens for masked language modelling (BERT, section 3.1).

    Token by token, never by whole words. Of the chosen ones 80 % become ``<mask>``, 10 % a random
    id of the whole vocabulary, special tokens included, and 10 % stay.

    Args:
        ids: (T,) int64.
        special: (T,) bool, the tokens that are never chosen.
        mask_id: id of ``<mask>``.
        vocab_size: number of ids.
        prob: with which each other token is chosen.

    Returns:
        The ids with tokens hidden, and labels: the right id where chosen, else -100; both (T,).
    """
    choice, fate = np.random.rand(2, len(ids))
    others = np.random.randint(vocab_size, size=len(ids))
    chosen = (choice < prob) & ~special
    hidden = np.where(chosen & (fate < 0.8), mask_id, ids)
    hidden = np.where(chosen & (fate >= 0.9), others, hidden)
    return hidden, np.where(chosen, ids, IGNORED)


@TRANSFORMS.register_module()
class FiberMaskTokens(BaseTransform):
    """Hide words of the text for masked language modelling, anew each time.

    In the data pipeline, where random numbers belong to the sample: the same words are hidden
    whatever the number of processes, and after a resume.

    Required Keys: text (or ``text_key``)
    Added Keys: mlm_ids, mlm_labels; (T,) int64, unpadded. The packer must list them.

    Args:
        tokenizer: Folder or name of a tokenizer, or a loaded one.
        max_tokens: As in ``FiberImageTextPreprocessor``, which truncates alike.
        prob: Share of the tokens that are to be guessed.
        text_key: Where the text is.
    """

    def __init__(
        self,
        tokenizer: str | os.PathLike | Any,
        max_tokens: int = 40,
        prob: float = 0.15,
        text_key: str = 'text',
    ) -> None:
        if not 0 < prob <= 1:
            raise ValueError(f'prob must lie in (0, 1], got {prob}')
        self.text = PromptTokenizer(tokenizer, max_tokens)
        self.prob = prob
        self.text_key = text_key

    def transform(self, results: dict) -> dict:
        """Add the hidden words of a sample."""
        text = results.get(self.text_key)
        if not isinstance(text, str):
            raise TypeError(
                f'FiberMaskTokens needs one string under {self.text_key!r}, got '
                f'{type(text).__name__} in a sample with the keys {sorted(results)}'
            )
        tokenizer, limit = self.text.tokenizer, self.text.max_tokens
        if tokenizer.mask_token_id is None:
            raise ValueError('the tokenizer has no mask token, which MLM needs')
        ids = tokenizer(text, verbose=False)['input_ids']
        if len(ids) > limit:
            ids = ids[: limit - 1] + ids[-1:]
        ids = np.asarray(ids, dtype=np.int64)
        special = np.isin(ids, tokenizer.all_special_ids)
        results['mlm_ids'], results['mlm_labels'] = mask_tokens(
            ids, special, tokenizer.mask_token_id, len(tokenizer), self.prob
        )
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(prob={self.prob}, max_tokens={self.text.max_tokens})'
