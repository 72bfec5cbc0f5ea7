"""Samples to training prompts: a class list with sampled negatives, or a caption with phrases."""

# The host stack's transforms draw from NumPy's global generator, which the engine seeds.
# ruff: noqa: NPY002

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmdet.datasets.transforms import PackDetInputs
from mmengine.fileio import get_text

from fiber_mm.models.data_preprocessors.text import PromptTokenizer
from fiber_mm.models.utils.prompts import (
    Prompt,
    check_class_names,
    class_prompt,
    clean_class_name,
    join_classes,
)
from fiber_mm.models.utils.token_maps import spans_to_token_map
from fiber_mm.registry import TRANSFORMS

from .boxes import DropCounter, keep_boxes

#: What the model and the metrics need to know about a sample, beside mmdet's own keys.
TEXT_META_KEYS = ('text', 'custom_entities', 'tokens_positive', 'caption_prompt')
EVAL_META_KEYS = (
    'phrases',
    'phrase_boxes',
    'original_img_id',
    'sentence_id',
    'dataset_name',
    'unseen',
)


@TRANSFORMS.register_module()
class FiberPrompt(BaseTransform):
    """Make the training prompt of a sample.

    A class list (``text`` is a list, or ODVG's label map) becomes a prompt of the classes in the
    image and sampled other ones, in random order. A caption stays as it is. Either way boxes are
    then labelled by the entity that they show.

    Sampling follows the original: negatives are drawn from all classes, those in the image are
    struck out. Tokens are counted as name + ". ", with the blank, up to ``max_tokens - 2``:
    classes in the image that do not fit lose their boxes, negatives that do not fit are left
    out. Ignored (crowd) boxes are removed.

    Required Keys: text, gt_bboxes, gt_bboxes_labels; for captions tokens_positive or phrases
    Modified Keys: text (str), gt_bboxes, gt_bboxes_labels (entity of each box), gt_ignore_flags
    Added Keys: tokens_positive (for each entity its spans [start, end)), custom_entities

    Args:
        tokenizer: Folder or name of the model's tokenizer.
        max_tokens: Most tokens of the prompt, ``<s>`` and ``</s>`` included.
        num_negatives: Most sampled negatives, as many as the original's count of their tokens
            (name, full stop and blank) allows. None for all classes; only where the whole list is
            longer than ``max_tokens`` are they sampled, too.
        one_negative_prob: Probability of drawing one only (0.05 for Objects365).
        no_negative_prob: Probability of drawing none (0.05 for Objects365).
        full_prob: Probability of drawing ``num_negatives`` (0.5 for Objects365, 1 for LVIS);
            else their number is uniform from 1 to ``num_negatives``.
        extra_negatives: Further names to draw negatives from; ``('__background__',)`` is what the
            original has for Objects365.
        shuffle: Whether the order is random; ODinW keeps the order of the classes, with
            prefixes and suffixes, and needs ``num_negatives=None``.
        label_map_file: JSON of ``{"0": name}``, for data sets that do not bring ``text``.
        skip_faulty_phrases: Whether boxes of phrases whose spans lie outside the caption or on
            no token are left out (counted in the log) instead of being an error.
    """

    def __init__(
        self,
        tokenizer: str | os.PathLike | Any,
        max_tokens: int = 256,
        num_negatives: int | None = 85,
        one_negative_prob: float = 0.0,
        no_negative_prob: float = 0.0,
        full_prob: float = 1.0,
        extra_negatives: Sequence[str] = (),
        shuffle: bool = True,
        label_map_file: str | None = None,
        skip_faulty_phrases: bool = False,
    ) -> None:
        probabilities = (one_negative_prob, no_negative_prob, full_prob)
        if min(probabilities) < 0 or sum(probabilities) > 1 + 1e-9:
            raise ValueError(
                'one_negative_prob, no_negative_prob and full_prob must be probabilities with a '
                f'sum of at most 1, got {probabilities}'
            )
        if num_negatives is not None and num_negatives < 0:
            raise ValueError(f'num_negatives must be at least 0 or None, got {num_negatives}')
        if not shuffle and num_negatives is not None:
            raise ValueError('shuffle=False keeps the class list as it is: set num_negatives=None')
        self.text = PromptTokenizer(tokenizer, max_tokens, pad_to='longest')
        self.num_negatives = num_negatives
        self.thresholds = tuple(np.cumsum(probabilities))
        self.extra_negatives = tuple(extra_negatives)
        self.shuffle = shuffle
        self.skip_faulty_phrases = skip_faulty_phrases
        self.label_map = None if label_map_file is None else json.loads(get_text(label_map_file))
        self._costs: dict[str, int] = {}
        self._last_classes: Any = None
        self.overflowed = DropCounter('boxes of classes that did not fit into the prompt')
        self.faulty = DropCounter('boxes of phrases that are on no token of their caption')

    def transform(self, results: dict) -> dict:
        """Make ``text`` and ``tokens_positive``."""
        text = results.get('text', self.label_map)
        if text is None:
            raise KeyError(
                f"the sample of {_where(results)} has no 'text': set return_classes=True in the "
                'dataset, or give FiberPrompt a label_map_file'
            )
        if 'gt_bboxes' not in results:
            raise KeyError(
                f"the sample of {_where(results)} has no 'gt_bboxes': put LoadAnnotations "
                '(with_bbox=True) before FiberPrompt'
            )
        if 'gt_ignore_flags' in results and results['gt_ignore_flags'].any():
            keep_boxes(results, ~results['gt_ignore_flags'].astype(bool))
        if isinstance(text, str):
            entities = self._caption_entities(text, results)
            results['text'] = text
        else:
            entities = self._class_entities(self._checked(text, results), results)
        labels = results['gt_bboxes_labels']
        row_of = {label: row for row, label in enumerate(entities)}
        results['gt_bboxes_labels'] = np.array(
            [row_of[label] for label in labels.tolist()], dtype=np.int64
        )
        results['tokens_positive'] = [[list(span) for span in spans] for spans in entities.values()]
        results['custom_entities'] = False
        return results

    # ------------------------------------------------------------------------------- class lists

    def _checked(self, text: Sequence[str] | Mapping[str, str], results: dict) -> list[str]:
        """Class names; those of a data set are looked at once."""
        names = class_list(text)
        if text is not self._last_classes:
            try:
                check_class_names(names)
            except ValueError as error:
                raise ValueError(f'{_where(results)}: {error}') from error
            self._last_classes = text
        return names

    def _class_entities(self, names: list[str], results: dict) -> dict[int, list]:
        """Set the prompt; return the spans of the classes in the image."""
        present = np.unique(results['gt_bboxes_labels']).astype(int)
        if len(present) and (present[0] < 0 or present[-1] >= len(names)):
            raise ValueError(
                f'{_where(results)}: labels {present.tolist()} do not fit the {len(names)} classes'
            )
        if not self.shuffle:
            prompt = class_prompt(names, results.get('caption_prompt'))
            if self.text.count_tokens(prompt.text) > self.text.max_tokens:
                raise ValueError(
                    f'the {len(names)} classes have {self.text.count_tokens(prompt.text)} tokens, '
                    f'the limit is {self.text.max_tokens}: sample them (shuffle=True)'
                )
            kept = set(present.tolist())
        else:
            if results.get('caption_prompt'):
                raise ValueError('caption_prompt needs shuffle=False: its order is fixed')
            names = names + list(self.extra_negatives)
            kept, used = self._affordable(present, names)
            everything = set(present.tolist())
            negatives = self._draw_negatives(len(names), everything)
            prompt = None
            if self.num_negatives is None:
                prompt = self._whole_prompt(names, [*sorted(everything), *negatives])
            if prompt is not None:
                kept = everything
            else:
                prompt = self._sampled_prompt(names, kept, negatives, used)
        results['text'] = prompt.text
        labels = results['gt_bboxes_labels']
        mask = np.array([label in kept for label in labels.tolist()], dtype=bool)
        if not mask.all():
            self.overflowed.add(int((~mask).sum()), _where(results))
            keep_boxes(results, mask)
        return {label: spans for label, spans in zip(prompt.labels, prompt.spans) if label in kept}

    def _cost(self, name: str) -> int:
        """Tokens of a class in the original's count: name and ". "."""
        if name not in self._costs:
            self._costs[name] = self.text.count_tokens(clean_class_name(name) + '. ') - 2
        return self._costs[name]

    def _affordable(self, present: np.ndarray, names: list[str]) -> tuple[set[int], int]:
        """Classes of the image that fit, in random order, and their number of tokens."""
        kept: set[int] = set()
        used = 0
        for label in np.random.permutation(present).tolist():
            used += self._cost(names[label])
            if used > self.text.max_tokens - 2:
                break
            kept.add(label)
        return kept, used

    def _draw_negatives(self, num_classes: int, present: set[int]) -> list[int]:
        if self.num_negatives is None:
            number = num_classes
        else:
            full = min(self.num_negatives, num_classes)
            draw = np.random.rand()
            if draw < self.thresholds[0]:
                number = min(1, full)
            elif draw < self.thresholds[1]:
                number = 0
            elif draw < self.thresholds[2]:
                number = full
            else:
                number = np.random.randint(full) + 1 if full else 0
        drawn = np.random.permutation(num_classes)[:number].tolist()
        return [label for label in drawn if label not in present]

    def _whole_prompt(self, names: list[str], labels: list[int]) -> Prompt | None:
        """All classes in random order; None if they are more than the tokens allow."""
        order = np.random.permutation(labels).astype(int).tolist()
        prompt = join_classes([names[label] for label in order], order)
        return prompt if self.text.count_tokens(prompt.text) <= self.text.max_tokens else None

    def _sampled_prompt(
        self, names: list[str], kept: set[int], negatives: list[int], used: int
    ) -> Prompt:
        left = self.text.max_tokens - 2 - used
        affordable = []
        for label in negatives:
            left -= self._cost(names[label])
            if left <= 0:
                break
            affordable.append(label)
        while True:
            order = np.random.permutation(sorted(kept) + affordable).astype(int).tolist()
            prompt = join_classes([names[label] for label in order], order)
            # Names behind a blank may be split otherwise than alone, so the sum is an estimate.
            if self.text.count_tokens(prompt.text) <= self.text.max_tokens:
                return prompt
            if affordable:
                affordable.pop()
            else:
                kept.pop()

    # ---------------------------------------------------------------------------------- captions

    def _caption_entities(self, caption: str, results: dict) -> dict[int, list]:
        """The spans of the phrases that have boxes."""
        spans_of = phrase_spans(results)
        used = np.unique(results['gt_bboxes_labels']).astype(int).tolist()
        missing = [label for label in used if label not in spans_of]
        if missing:
            raise ValueError(
                f'{_where(results)}: boxes of phrases {missing}, which have no spans; known are '
                f'{sorted(spans_of)}'
            )
        spans_of = {label: spans_of[label] for label in used}
        if self.text.may_be_too_long(caption) or self.skip_faulty_phrases:
            fits = self._phrases_that_fit(caption, spans_of)
            labels = results['gt_bboxes_labels']
            mask = np.array([label in fits for label in labels.tolist()], dtype=bool)
            if not mask.all():
                self.faulty.add(int((~mask).sum()), _where(results))
                keep_boxes(results, mask)
            spans_of = {label: spans for label, spans in spans_of.items() if label in fits}
        return spans_of

    def _phrases_that_fit(self, caption: str, spans_of: Mapping[int, list]) -> set[int]:
        encoding = self.text.tokenizer(caption, verbose=False)
        length = len(encoding['input_ids'])
        token_map = spans_to_token_map(encoding, list(spans_of.values()), length)
        fits = ~token_map[:, self.text.max_tokens - 1 :].any(1) | (length <= self.text.max_tokens)
        if self.skip_faulty_phrases:
            inside = [
                all(0 <= start < end <= len(caption) for start, end in spans)
                for spans in spans_of.values()
            ]
            fits = fits & token_map.any(1) & fits.new_tensor(inside)
        return {label for label, fit in zip(spans_of, fits.tolist()) if fit}


def class_list(text: Sequence[str] | Mapping[str, str]) -> list[str]:
    """Class names of a list, or of ODVG's label map ``{"0": name}``, in the order of labels."""
    if isinstance(text, Mapping):
        labels = sorted(text, key=int)
        if [int(label) for label in labels] != list(range(len(labels))):
            raise ValueError(
                f'a label map must count from "0" without gaps, got {labels[:3]} ... {labels[-1:]}'
            )
        return [text[label] for label in labels]
    return list(text)


def phrase_spans(results: Mapping[str, Any]) -> dict[int, list]:
    """Spans of each phrase of a caption sample, from ``tokens_positive`` or ODVG's ``phrases``."""
    spans = results.get('tokens_positive')
    if isinstance(spans, Mapping):
        return {int(label): list(value) for label, value in spans.items()}
    if spans is not None:
        return dict(enumerate(spans))
    if isinstance(results.get('phrases'), Mapping):
        return {
            int(label): phrase['tokens_positive'] for label, phrase in results['phrases'].items()
        }
    raise KeyError(
        f"the caption sample of {_where(results)} has neither 'tokens_positive' nor 'phrases': "
        'use FiberODVGDataset or FiberMDETRDataset'
    )


def _where(results: Mapping[str, Any]) -> str:
    return str(results.get('img_path') or results.get('img_id') or 'an image without img_path')


@TRANSFORMS.register_module()
class FiberPackInputs(PackDetInputs):
    """mmdet's packer with the keys of text and of phrase ground truth.

    Args:
        meta_keys: Keys beside image geometry and ``TEXT_META_KEYS``, ``EVAL_META_KEYS``.
    """

    def __init__(self, meta_keys: Sequence[str] = ()) -> None:
        geometry = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip',
                    'flip_direction')  # fmt: skip
        super().__init__((*geometry, *TEXT_META_KEYS, *EVAL_META_KEYS, *meta_keys))
