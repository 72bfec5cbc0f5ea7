"""Images and their texts to normalised batches and padded token ids."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_world_size
from mmpretrain.models.utils.data_preprocessor import MultiModalDataPreprocessor
from torch import Tensor

from fiber_mm.datasets.transforms.boxes import DropCounter
from fiber_mm.models.data_preprocessors.text import PromptTokenizer
from fiber_mm.registry import MODELS
from fiber_mm.structures import TextBatch


@MODELS.register_module()
class FiberImageTextPreprocessor(MultiModalDataPreprocessor):
    """mmpretrain's preprocessing of images, plus texts to token ids.

    The batch becomes ``images`` (B, 3, H, W), ``texts`` (:class:`TextBatch`) and the
    ``data_samples`` that came in. Each sample needs its text as a string under ``text_key``;
    longer texts are truncated as the original does (their last token becomes ``</s>``), which is
    counted in the log. Samples that went through ``FiberMaskTokens`` bring their hidden words.

    Args:
        tokenizer: Folder or name of a tokenizer, or a loaded one; see :class:`PromptTokenizer`.
        max_tokens: Most tokens of a text, ``<s>`` and ``</s>`` included; 40 in pre-training, 50
            in the tasks.
        pad_to: ``'max'`` pads to ``max_tokens`` as the original does, ``'longest'`` to the next
            multiple of 8 of the batch's longest text: less work, for a single process.
        text_key: Where a sample has its text.
        vocab_size: Size of the model's word embedding, to be checked against the tokenizer.
        **kwargs: For mmpretrain's ``MultiModalDataPreprocessor``.
    """

    def __init__(
        self,
        tokenizer: str | os.PathLike | Any,
        max_tokens: int = 40,
        pad_to: str = 'max',
        text_key: str = 'text',
        vocab_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.text = PromptTokenizer(tokenizer, max_tokens, pad_to, vocab_size)
        self.text_key = text_key
        self.truncated = DropCounter(f'ends of texts with more than {max_tokens} tokens')

    def forward(self, data: dict, training: bool = False) -> dict:
        """Prepare a batch.

        Args:
            data: ``inputs`` and ``data_samples`` as collated.
            training: Whether masked words are needed at all.
        """
        if training and self.text.pad_to != 'max' and get_world_size() > 1:
            raise ValueError(
                f'pad_to={self.text.pad_to!r} gives each rank its own text length, but in '
                "distributed training texts are gathered: set pad_to='max'"
            )
        samples = data.get('data_samples')
        if not samples:
            raise KeyError("the batch has no 'data_samples', which hold the texts")
        texts = self.tokenize([self._text_of(sample) for sample in samples], samples)
        batch = super().forward(dict(data, inputs=_stacked(data.get('inputs'))), training)
        return dict(batch, texts=TextBatch(*self.cast_data(tuple(texts))))

    def prepare_images(self, inputs: Tensor | Sequence[Tensor]) -> Tensor:
        """Images without texts, normalised and on the model's device: (B, 3, H, W)."""
        return super().forward(dict(inputs=_stacked(inputs)))['images']

    def prepare_texts(self, texts: Sequence[str]) -> TextBatch:
        """Texts without images, on the model's device."""
        return TextBatch(*self.cast_data(tuple(self.tokenize(texts))))

    def tokenize(self, texts: Sequence[str], samples: Sequence[Any] = ()) -> TextBatch:
        """Ids of texts, on the host.

        Args:
            texts: B strings.
            samples: None, or the B samples: for their names in messages, and their masked words.
        """
        ids = self.text.tokenizer(list(texts), verbose=False)['input_ids']
        limit = self.text.max_tokens
        for i, row in enumerate(ids):
            if len(row) > limit:
                self.truncated.add(1, _where(samples[i]) if samples else repr(texts[i]))
                ids[i] = row[: limit - 1] + row[-1:]
        length = self.text.padded_length(max(len(row) for row in ids))
        pad = self.text.tokenizer.pad_token_id
        input_ids = torch.full((len(ids), length), pad, dtype=torch.int64)
        mask = torch.zeros(input_ids.shape, dtype=torch.bool)
        for i, row in enumerate(ids):
            input_ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = True
        if not samples or any('mlm_labels' not in sample for sample in samples):
            return TextBatch(input_ids, mask)
        return self._with_masked_words(TextBatch(input_ids, mask), ids, samples)

    def _with_masked_words(
        self, texts: TextBatch, ids: Sequence[Sequence[int]], samples: Sequence[Any]
    ) -> TextBatch:
        masked, labels = texts.input_ids.clone(), torch.full_like(texts.input_ids, -100)
        for i, (row, sample) in enumerate(zip(ids, samples)):
            given = sample.mlm_ids, sample.mlm_labels
            if any(len(value) != len(row) for value in given):
                raise ValueError(
                    f'{_where(sample)}: FiberMaskTokens made {len(given[0])} tokens of a text that '
                    f'has {len(row)} here: give both the same tokenizer and max_tokens'
                )
            masked[i, : len(row)], labels[i, : len(row)] = map(_as_tensor, given)
        positions = (labels.flatten() != -100).nonzero()[:, 0]
        return texts._replace(
            masked_ids=masked,
            masked_positions=positions,
            masked_labels=labels.flatten()[positions],
        )

    def _text_of(self, sample: Any) -> str:
        text = sample.get(self.text_key)
        if not isinstance(text, str):
            seen = 'nothing' if text is None else f'{type(text).__name__} {text!r}'
            raise TypeError(
                f'{_where(sample)}: one text is wanted under {self.text_key!r}, found {seen}; '
                'the packer must list this key'
            )
        if not text.strip():
            raise ValueError(
                f'{_where(sample)}: the text under {self.text_key!r} is empty ({text!r}): leave '
                'the sample out'
            )
        return text


def _stacked(images: Tensor | Sequence[Tensor] | None) -> Tensor | None:
    """(B, 3, H, W) of a list, as mmengine's pseudo_collate leaves it."""
    if images is None or isinstance(images, Tensor):
        return images
    shapes = {tuple(image.shape) for image in images}
    if len(shapes) > 1:
        raise ValueError(
            f'the images of a batch have several sizes, {sorted(shapes)}: put FiberSquareResize '
            'or FiberRandomResizedCrop into the pipeline'
        )
    return torch.stack(list(images))


def _as_tensor(value: Tensor | np.ndarray | Sequence[int]) -> Tensor:
    return value if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))


def _where(sample: Any) -> str:
    for key in ('img_path', 'image_id', 'sample_idx'):
        if sample.get(key) is not None:
            return f'{key} {sample.get(key)}'
    return 'a sample without img_path'
