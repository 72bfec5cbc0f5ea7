"""Where a model sees a phrase, learnt from captions alone.

heatmap = FiberHeatmap('pretrain/fiber_nano_...', 'model.pth')
seen = heatmap('photo.jpg', 'a red circle above two blue squares', ['red circle'])
seen.maps[0]                                   # (H, W) in [0, 1]
heatmap.draw('photo.jpg', phrases=['red circle', 'blue square'])  # a picture, RGB
"""

from __future__ import annotations

import contextlib
import copy
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from torch import nn

from fiber_mm.engine.checkpoint import CheckpointError
from fiber_mm.models.multimodal.heatmap import FiberHeatmapModel, Frame
from fiber_mm.models.utils.prompts import shown
from fiber_mm.visualization.heatmap import draw_heatmaps

from .inference import ImageInput, _loaded, init_grounder

#: Steps of a pipeline that a loaded image does not need.
_LEFT_OUT = ('Load', 'FiberLoad', 'FiberMaskTokens')


@dataclass(frozen=True)
class PhraseMaps:
    """Maps of an image's phrases.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        caption: What the model read; empty where every phrase was read by itself.
        phrases: The P phrases.
        maps: (P, H, W) float32 in [0, 1], in pixels of the image; 0 everywhere where no place
            stands out.
    """

    image: np.ndarray
    caption: str
    phrases: list[str]
    maps: np.ndarray


class FiberHeatmap:
    """Maps of phrases from the cross-attention of a model's fused blocks.

    Args:
        model: Config, path or name of one, of a model of the coarse stage, of a detector, or of
            their evaluation by heatmaps; or a model with its config as ``model.cfg``.
        checkpoint: Weights, for a config; None leaves the initial ones.
        method, blocks, direction: See :class:`FiberHeatmapModel`.
        device: Where to run, for a config; by default an accelerator if there is one.
        cfg_options: Settings that override the config's.
    Raises:
        FileNotFoundError: If there is no such config or checkpoint.
        CheckpointError: If the checkpoint does not fit the model; says so if it lacks the ITM head
            that ``method='gradient'`` needs.
        ValueError: For settings that the model does not allow, ``'gradient'`` without an ITM head
            for example.
    """

    def __init__(
        self,
        model: str | os.PathLike | Config | nn.Module,
        checkpoint: str | os.PathLike | None = None,
        method: str = 'attention',
        blocks: str | int | Sequence[int] = 'last',
        direction: str = 'both',
        device: str | torch.device | None = None,
        cfg_options: Mapping[str, Any] | None = None,
    ) -> None:
        if isinstance(model, nn.Module):
            if checkpoint is not None:
                raise ValueError('a checkpoint goes with a config; the model has its weights')
            if not hasattr(model, 'cfg'):
                raise ValueError(
                    f'{type(model).__name__} has no cfg, whose pipeline prepares the images: give '
                    'the config, or set model.cfg'
                )
        else:
            try:
                model = init_grounder(model, checkpoint, device, cfg_options)
            except CheckpointError as error:
                if method != 'gradient' or 'itm_score' not in str(error):
                    raise
                raise CheckpointError(
                    f"{error} method='gradient' needs the trained ITM head (itm_score)"
                ) from error
        self.pipeline = _pipeline(model.cfg)
        inner = model.model if isinstance(model, FiberHeatmapModel) else model
        self.model = FiberHeatmapModel(inner, method, blocks, direction)
        self.model.to(next(inner.parameters()).device)

    def __call__(
        self,
        image: ImageInput,
        caption: str | None = None,
        phrases: str | Sequence[str] | None = None,
        spans: Any = None,
    ) -> PhraseMaps:
        """Maps of phrases.

        Args:
            image: File, PIL image, or (H, W, 3) array in BGR order as OpenCV reads it.
            caption: What the model reads. None: every phrase is read by itself, as a caption.
            phrases: Words of the caption, wherever they stand in it as whole words (upper and
                lower case are the same).
            spans: Instead of phrases, for each one its character spans ``[start, end)`` in the
                caption, such as ``[[[2, 12]], [[23, 33]]]``; -1 for the whole caption as one.
                Without either, noun phrases are found by rules.

        Raises:
            ValueError: For an empty caption or phrase, a phrase that is not in the caption, spans
                outside of it, on no token, or beyond the model's limit of tokens.
            TypeError: For texts that are no strings, and spans that are no pairs of whole numbers.
            FileNotFoundError: If there is no such image.
        """
        texts = _texts(caption, phrases, spans)
        # Before the image: a faulty text costs no work.
        prompts = [self.model.tokenize(text, where) for text, where in texts]
        loaded = _loaded(image)
        pixels = np.ascontiguousarray(loaded['img'][..., ::-1])
        data = self.pipeline(dict(loaded, text=caption or ''))
        sample = data['data_samples']
        frame = Frame(tuple(sample.img_shape[:2]), tuple(sample.ori_shape[:2]))
        with _evaluating(self.model.model):
            trunk = self.model.image_trunk(self.model.normalized([data['inputs']], [sample]))
            maps = self.model.heatmaps(trunk.repeat(len(prompts)), prompts, [frame] * len(prompts))
        names = [name for prompt in prompts for name in prompt.names]
        return PhraseMaps(pixels, caption or '', names, torch.cat(maps).cpu().numpy())

    def draw(
        self,
        image: ImageInput,
        caption: str | None = None,
        phrases: str | Sequence[str] | None = None,
        spans: Any = None,
        boxes: Sequence[Sequence[Sequence[float]]] | None = None,
    ) -> np.ndarray:
        """A picture of the image and its maps: (height, width, 3) uint8, RGB.

        Args:
            image, caption, phrases, spans: As for calling it.
            boxes: For each phrase its true boxes, x1, y1, x2, y2 in pixels of the image.
        """
        seen = self(image, caption, phrases, spans)
        return draw_heatmaps(seen.image, seen.maps, seen.phrases, seen.caption, boxes)


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while: a model that is being trained goes on as it was."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def phrase_spans(caption: str, phrase: str) -> list[list[int]]:
    """Where a phrase stands in a caption: character spans ``[start, end)``.

    Raises:
        ValueError: If it is empty, or not there as whole words.
        TypeError: If it is no string.
    """
    if not isinstance(phrase, str):
        raise TypeError(f'a phrase must be a string, got {type(phrase).__name__}: {phrase!r}')
    words = phrase.strip()
    if not words:
        raise ValueError(f'a phrase is empty: {phrase!r}')
    pattern = rf'(?<!\w){re.escape(words)}(?!\w)'
    found = [list(match.span()) for match in re.finditer(pattern, caption, re.IGNORECASE)]
    if not found:
        raise ValueError(
            f'the phrase {words!r} is not in the caption {shown(caption)}: give words of the '
            'caption, or no caption to look for the phrase by itself'
        )
    return found


def _texts(
    caption: str | None, phrases: str | Sequence[str] | None, spans: Any
) -> list[tuple[str, Any]]:
    """What is read, and the spans in it."""
    if phrases is not None and spans is not None:
        raise ValueError('phrases and spans say the same: give one of them')
    if isinstance(phrases, str):
        phrases = [phrases]
    elif phrases is not None:
        if not isinstance(phrases, Iterable):
            raise TypeError(f'phrases must be strings, got {phrases!r}')
        phrases = list(phrases)
        if not phrases:
            raise ValueError('no phrase is given: phrases is empty')
    if caption is None:
        if phrases is None:
            raise ValueError('give a caption, phrases, or both')
        return [(phrase, -1) for phrase in phrases]
    if phrases is None:
        return [(caption, spans)]
    if isinstance(caption, str) and caption.strip():
        spans = [phrase_spans(caption, phrase) for phrase in phrases]
    return [(caption, spans)]  # a faulty caption is refused where it is tokenised


def _pipeline(cfg: Config) -> Compose:
    """The steps that prepare a loaded image, of the first data set of the config that has some.

    Raises:
        ValueError: If there are none, or they change images at random.
    """
    for part in ('test', 'val', 'train'):
        dataset = (cfg.get(f'{part}_dataloader') or {}).get('dataset')
        while dataset is not None and 'pipeline' not in dataset:
            dataset = dataset.get('dataset') or next(iter(dataset.get('datasets', [])), None)
        if dataset is None:
            continue
        steps = [
            step
            for step in copy.deepcopy(dataset.pipeline)
            if not step['type'].rpartition('.')[2].startswith(_LEFT_OUT)
        ]
        wild = [step['type'] for step in steps if 'Rand' in step['type']]
        if wild:
            raise ValueError(
                f'the config has no pipeline for testing, and that of {part}_dataloader changes '
                f'images at random ({", ".join(wild)}): add a test_dataloader'
            )
        return Compose(steps)
    raise ValueError('the config has no data loader, whose pipeline prepares the images')
