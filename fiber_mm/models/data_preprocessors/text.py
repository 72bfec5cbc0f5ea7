"""Strings to padded token ids, masks and token maps, beside mmdet's image preprocessing."""

import os
import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.models.data_preprocessors import DetDataPreprocessor
from torch import Tensor

from fiber_mm.models.utils.prompts import (
    Prompt,
    caption_prompt,
    chunk_class_prompts,
    class_prompt,
    shown,
    split_caption,
    split_class_string,
)
from fiber_mm.models.utils.token_maps import spans_to_token_map
from fiber_mm.registry import MODELS

#: Text lengths are padded to multiples of this, so that few different shapes occur.
LENGTH_MULTIPLE = 8
#: Class lists whose tokens are kept; a data set needs one.
CACHED_CLASS_LISTS = 32


@dataclass(frozen=True)
class TokenizedPrompt:
    """A prompt as the model needs it.

    Attributes:
        input_ids: (T,) int64, padded.
        attention_mask: (T,) bool, True for tokens that are no padding.
        token_map: (C, T) bool, the tokens of each entity.
        labels: (C,) int64, the label of each entity.
        names: The C names to show to people.
        pad_token_id: What ``input_ids`` is padded with.
    """

    input_ids: Tensor
    attention_mask: Tensor
    token_map: Tensor
    labels: Tensor
    names: list[str]
    pad_token_id: int = 1

    def __len__(self) -> int:
        """T, padding included."""
        return self.input_ids.shape[0]

    def to(self, device: str | torch.device) -> 'TokenizedPrompt':
        """The same on another device."""
        return replace(
            self,
            input_ids=self.input_ids.to(device, non_blocking=True),
            attention_mask=self.attention_mask.to(device, non_blocking=True),
            token_map=self.token_map.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
        )

    def padded(self, length: int) -> 'TokenizedPrompt':
        """The same with padding up to ``length`` tokens."""
        missing = length - len(self)
        if missing < 0:
            raise ValueError(f'cannot pad {len(self)} tokens to {length}')
        if missing == 0:
            return self
        return replace(
            self,
            input_ids=F.pad(self.input_ids, (0, missing), value=self.pad_token_id),
            attention_mask=F.pad(self.attention_mask, (0, missing), value=False),
            token_map=F.pad(self.token_map, (0, missing), value=False),
        )


class PromptTokenizer:
    """A Hugging Face tokenizer that also knows which tokens name which entity.

    The tokenizer is loaded at first use, from a local folder or the local Hugging Face cache;
    the network is never asked.

    Args:
        tokenizer: Folder, name in the local cache, or a loaded fast tokenizer.
        max_tokens: Most tokens of a prompt, ``<s>`` and ``</s>`` included.
        pad_to: ``'max'`` pads to ``max_tokens`` as the original does, ``'longest'`` to the next
            multiple of 8. Padding changes no result; less of it saves time.
        vocab_size: Size of the model's word embedding; the tokenizer must have the same.
    """

    def __init__(
        self,
        tokenizer: str | os.PathLike | Any,
        max_tokens: int = 256,
        pad_to: str = 'max',
        vocab_size: int | None = None,
    ) -> None:
        if pad_to not in ('max', 'longest'):
            raise ValueError(f"pad_to must be 'max' or 'longest', got {pad_to!r}")
        if max_tokens < 3:
            raise ValueError(
                f'max_tokens must be at least 3 (<s>, a token, </s>), got {max_tokens}'
            )
        self.max_tokens = max_tokens
        self.pad_to = pad_to
        self.vocab_size = vocab_size
        self._source = tokenizer
        self._tokenizer: Any = None

    @property
    def tokenizer(self) -> Any:
        """The Hugging Face tokenizer, loaded when first asked for."""
        if self._tokenizer is None:
            source = self._source
            if isinstance(source, (str, os.PathLike)):
                source = load_local_tokenizer(os.fspath(source))
            if not getattr(source, 'is_fast', False):
                raise TypeError(
                    f'{type(source).__name__} is no fast tokenizer: character spans need one '
                    '(a folder with tokenizer.json)'
                )
            if source.pad_token_id is None:
                raise ValueError(f'the tokenizer {self._source!r} has no padding token')
            check_vocabulary(source, self.vocab_size, str(self._source))
            self._tokenizer = source
        return self._tokenizer

    def expect_vocab_size(self, vocab_size: int) -> None:
        """Say how many word embeddings the model has; checked now or at loading.

        Raises:
            ValueError: If the tokenizer has another number of tokens.
        """
        self.vocab_size = vocab_size
        if self._tokenizer is not None:
            check_vocabulary(self._tokenizer, vocab_size, str(self._source))

    def count_tokens(self, text: str) -> int:
        """Number of tokens of a text, ``<s>`` and ``</s>`` included."""
        return len(self.tokenizer(text, verbose=False)['input_ids'])

    def may_be_too_long(self, text: str) -> bool:
        """Whether it has to be tokenised to know: a token is at least one byte."""
        return len(text.encode()) > self.max_tokens - 2

    def __call__(self, prompt: Prompt, strict: bool = True) -> TokenizedPrompt:
        """Tokenise a prompt.

        Args:
            prompt: Text and spans.
            strict: Whether an entity on no token is an error. If not, it scores 0, with a warning.

        Raises:
            ValueError: For an empty prompt, an entity that lies beyond ``max_tokens``, and
                (``strict``) an entity on no token.
        """
        if not prompt.text.strip():
            raise ValueError(f'the prompt is empty: {prompt.text!r}')
        encoding = self.tokenizer(prompt.text, verbose=False)
        ids = encoding['input_ids']
        token_map = spans_to_token_map(encoding, prompt.spans, len(ids))
        if len(ids) > self.max_tokens:
            self._check_nothing_lost(prompt, token_map, len(ids))
            ids = ids[: self.max_tokens - 1] + ids[-1:]
            token_map = token_map[:, : self.max_tokens]
        for row in (~token_map.any(1)).nonzero().flatten().tolist():
            message = (
                f'phrase {prompt.names[row]!r} (label {prompt.labels[row]}, spans '
                f'{prompt.spans[row]}) covers no token of the prompt {shown(prompt.text)}'
            )
            if strict:
                raise ValueError(f'{message}: correct its spans')
            warnings.warn(f'{message}; it scores 0', stacklevel=2)
        tokens = TokenizedPrompt(
            input_ids=torch.tensor(ids, dtype=torch.int64),
            attention_mask=torch.ones(len(ids), dtype=torch.bool),
            token_map=token_map,
            labels=torch.tensor(prompt.labels, dtype=torch.int64),
            names=list(prompt.names),
            pad_token_id=self.tokenizer.pad_token_id,
        )
        return tokens.padded(self.padded_length(len(ids)))

    def pad_together(self, prompts: Sequence[TokenizedPrompt]) -> list[TokenizedPrompt]:
        """Pad the prompts of a batch to the longest of them."""
        length = max(len(prompt) for prompt in prompts)
        return [prompt.padded(length) for prompt in prompts]

    def padded_length(self, length: int) -> int:
        """What a text of ``length`` tokens, at most ``max_tokens``, is padded to."""
        if self.pad_to == 'max':
            return self.max_tokens
        rounded = -(-length // LENGTH_MULTIPLE) * LENGTH_MULTIPLE
        return min(rounded, self.max_tokens)

    def _check_nothing_lost(self, prompt: Prompt, token_map: Tensor, length: int) -> None:
        lost = token_map[:, self.max_tokens - 1 :].any(1).nonzero().flatten().tolist()
        if lost:
            raise ValueError(
                f'the prompt has {length} tokens, the limit is {self.max_tokens}: phrase '
                f'{shown(prompt.names[lost[0]])} (and {len(lost) - 1} more) would be lost. '
                'Shorten the text, or in training sample fewer classes (FiberPrompt)'
            )


def load_local_tokenizer(source: str) -> Any:
    """Load a tokenizer from a folder or the local Hugging Face cache, never from the network.

    Raises:
        FileNotFoundError: If it is in neither; says what to do.
        ValueError: If a folder is there but holds no usable tokenizer.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source, local_files_only=True, use_fast=True)
    # ImportError: files that are not there would have been converted by other libraries.
    except (OSError, ValueError, KeyError, ImportError) as error:
        if os.path.isdir(source):
            raise ValueError(
                f'the folder {source!r} holds no tokenizer that can be read ({error}); wanted a '
                'Hugging Face folder with tokenizer.json and tokenizer_config.json'
            ) from error
        raise FileNotFoundError(
            f'there is no tokenizer {source!r}: neither a folder nor a name in the local Hugging '
            "Face cache (nothing is downloaded here). Give a tokenizer's folder, or fetch the "
            f'files once with `huggingface-cli download {source}`. tools/make_shapes.py writes '
            'one for the Shapes data'
        ) from error


def check_vocabulary(tokenizer: Any, vocab_size: int | None, source: str = 'tokenizer') -> None:
    """Refuse a tokenizer whose ids are not those of the model.

    Raises:
        ValueError: Naming both sizes.
    """
    if vocab_size is not None and len(tokenizer) != vocab_size:
        raise ValueError(
            f'the tokenizer {source} has {len(tokenizer)} tokens, the model has word embeddings '
            f'for {vocab_size}: use the tokenizer that the model was trained with, or set '
            'vocab_size of the text encoder'
        )


@MODELS.register_module()
class FiberDataPreprocessor(DetDataPreprocessor):
    """mmdet's image preprocessing, plus prompts to token ids.

    Each data sample gets ``prompts``, a list of :class:`TokenizedPrompt` on the model's device:
    one in training, one or more (chunks of a long class list) in testing. All prompts of a batch
    have one length. In training ``gt_instances.positive_map`` (G, T) bool marks the tokens of
    each box.

    What a sample says is in its metainfo, with mmdet's meaning:

    - ``text``: a caption, or a list of class names;
    - ``custom_entities``: whether a string ``text`` is a list of classes ("cat. red car");
    - ``tokens_positive``: spans of the caption per entity (list, or dict by label), -1 for the
      whole caption, None to look for noun phrases;
    - ``caption_prompt``: per class ``prefix``, ``name``, ``suffix`` (ODinW).

    Args:
        tokenizer: Folder or name of a tokenizer, or a loaded one; see :class:`PromptTokenizer`.
        max_tokens: Most tokens of one prompt.
        pad_to: ``'max'`` (the original) or ``'longest'``.
        chunk_size: Most classes of one prompt in testing; None: as many as fit.
        vocab_size: Size of the model's word embedding, to be checked against the tokenizer.
        skip_faulty_phrases: In testing, phrases whose spans lie outside the caption or on no token
            score 0, with a warning, instead of being an error; for evaluation on data that may
            have some.
        **kwargs: For mmdet's ``DetDataPreprocessor``.
    """

    def __init__(
        self,
        tokenizer: str | os.PathLike | Any,
        max_tokens: int = 256,
        pad_to: str = 'max',
        chunk_size: int | None = None,
        vocab_size: int | None = None,
        skip_faulty_phrases: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.skip_faulty_phrases = skip_faulty_phrases
        self.text = PromptTokenizer(tokenizer, max_tokens, pad_to, vocab_size)
        self.chunk_size = chunk_size
        self._class_lists: OrderedDict[tuple, list[TokenizedPrompt]] = OrderedDict()

    def forward(self, data: dict, training: bool = False) -> dict:
        """Prepare a batch.

        Args:
            data: ``inputs`` and ``data_samples`` as collated.
            training: Whether ground truth gets token maps.

        Returns:
            The batch, with ``prompts`` in every data sample.
        """
        samples = data.get('data_samples')
        if samples is None:
            return super().forward(data, training)
        # Done before the samples move to the device: checks on labels then cost no transfer.
        prompts = [self.tokenize_sample(sample, training) for sample in samples]
        flat = self.text.pad_together([prompt for chunks in prompts for prompt in chunks])
        flat_iter = iter(flat)
        prompts = [[next(flat_iter) for _ in chunks] for chunks in prompts]
        positive_maps = None
        if training:
            positive_maps = [
                positive_map_of(sample, chunks[0]) for sample, chunks in zip(samples, prompts)
            ]

        data = super().forward(data, training)
        moved: dict[int, TokenizedPrompt] = {}
        for index, sample in enumerate(data['data_samples']):
            for prompt in prompts[index]:
                if id(prompt) not in moved:
                    moved[id(prompt)] = prompt.to(self.device)
            sample.prompts = [moved[id(prompt)] for prompt in prompts[index]]
            if positive_maps is not None:
                sample.gt_instances.positive_map = positive_maps[index].to(self.device)
        return data

    def tokenize_sample(self, sample: Any, training: bool = False) -> list[TokenizedPrompt]:
        """Prompts of one data sample, not yet padded to the batch.

        Raises:
            KeyError: If the sample has no text.
            ValueError: For a faulty prompt, naming the image.
        """
        text = sample.get('text')
        if text is None:
            raise KeyError(
                f"the data sample of {_image_of(sample)} has no 'text': add the transform "
                'FiberPrompt (training) or set return_classes=True in the dataset (testing), and '
                "list 'text', 'custom_entities' and 'tokens_positive' in meta_keys of "
                'PackDetInputs; in DetInferencer give texts=...'
            )
        try:
            return self._tokenize(
                text,
                bool(sample.get('custom_entities', False)),
                sample.get('tokens_positive'),
                sample.get('caption_prompt'),
                training,
            )
        except (ValueError, TypeError) as error:
            image = sample.get('img_path')
            if not image:
                raise
            raise type(error)(f'{image}: {error}') from error

    def _tokenize(
        self,
        text: str | Sequence[str] | Mapping[str, str],
        custom_entities: bool,
        tokens_positive: Any,
        affixes: Mapping | None,
        training: bool,
    ) -> list[TokenizedPrompt]:
        if isinstance(text, str) and not (custom_entities and tokens_positive is None):
            if training and tokens_positive is None:
                raise ValueError(
                    "a caption in training needs 'tokens_positive': add it to meta_keys of "
                    'PackDetInputs'
                )
            strict = training or not self.skip_faulty_phrases
            prompts = [caption_prompt(text, tokens_positive, strict)]
            if not training and self.text.may_be_too_long(text):
                prompts = split_caption(prompts[0], self.text.count_tokens, self.text.max_tokens)
            return self.text.pad_together([self.text(prompt, strict) for prompt in prompts])
        if isinstance(text, str):
            names: Sequence[str] = split_class_string(text)
        elif isinstance(text, Mapping):  # the label map of an ODVG dataset
            names = [text[key] for key in sorted(text, key=int)]
        else:
            names = text
        return self._tokenize_classes(tuple(names), affixes, training)

    def _tokenize_classes(
        self, names: tuple[str, ...], affixes: Mapping | None, training: bool
    ) -> list[TokenizedPrompt]:
        key = (names, repr(affixes), training)
        if key in self._class_lists:
            self._class_lists.move_to_end(key)
            return self._class_lists[key]
        if training:
            prompts = [class_prompt(names, affixes)]
        else:
            prompts = chunk_class_prompts(
                names, self.text.count_tokens, self.text.max_tokens, self.chunk_size, affixes
            )
        tokenized = self.text.pad_together([self.text(prompt) for prompt in prompts])
        self._class_lists[key] = tokenized
        if len(self._class_lists) > CACHED_CLASS_LISTS:
            self._class_lists.popitem(last=False)
        return tokenized


def positive_map_of(sample: Any, prompt: TokenizedPrompt) -> Tensor:
    """Tokens of each ground-truth box.

    Args:
        sample: With ``gt_instances.labels`` (G,).
        prompt: The prompt of the sample.

    Returns:
        (G, T) bool.

    Raises:
        ValueError: If a label is none of the prompt's, or a box is not finite.
    """
    boxes = sample.gt_instances.get('bboxes')
    boxes = getattr(boxes, 'tensor', boxes)  # mmdet's box types
    if boxes is not None and boxes.device.type == 'cpu' and not boxes.isfinite().all():
        row = int((~boxes.isfinite()).any(1).nonzero()[0, 0])
        raise ValueError(
            f'{_image_of(sample)}: ground-truth box {row} is {boxes[row].tolist()}, four finite '
            'numbers are wanted; correct the annotation'
        )
    row_of = {label: row for row, label in enumerate(prompt.labels.tolist())}
    labels = sample.gt_instances.labels.tolist()
    missing = sorted({label for label in labels if label not in row_of})
    if missing:
        raise ValueError(
            f'{_image_of(sample)}: ground-truth labels {missing} are not in the prompt, which has '
            f'{sorted(row_of)}: labels must index the entities of tokens_positive'
        )
    rows = torch.tensor([row_of[label] for label in labels], dtype=torch.int64)
    return prompt.token_map[rows.to(prompt.token_map.device)]


def _image_of(sample: Any) -> str:
    return str(sample.get('img_path') or sample.get('img_id') or 'an image without img_path')
