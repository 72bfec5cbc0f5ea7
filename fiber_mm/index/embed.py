"""Images and texts to features of the dual encoder, and pairs to matching scores."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmcv.transforms import BaseTransform
from mmpretrain.models.utils.data_preprocessor import MultiModalDataPreprocessor
from torch import Tensor

from fiber_mm.datasets.transforms.augment import FiberSquareResize
from fiber_mm.models.multimodal.base import FiberMultimodal
from fiber_mm.structures import TextTrunk

from .errors import ImageIndexError

PRECISIONS = ('fp32', 'bf16')
#: Settings of the encoder that only training knows.
_TRAINING_ONLY = (
    'drop_path_rate', 'frozen_stages', 'init_std', 'local_init', 'hidden_dropout',
    'attention_dropout', 'word_init_std', 'gate_init',
)  # fmt: skip


class Embedder:
    """What an index needs of a model.

    Args:
        model: A :class:`FiberMultimodal`, or a task model made of it, with the part ``itc`` and a
            :class:`FiberImageTextPreprocessor`; re-ranking needs ``fused`` and ``itm``, too.
        size: Side in pixels that images are resized to (a square, as in pre-training and
            evaluation); None takes that of the data pipelines in ``model.cfg``.
        precision: ``fp32``, or ``bf16`` under autocast.

    Raises:
        ImageIndexError: if the model has no contrastive part, or the size is not known.
    """

    def __init__(
        self, model: FiberMultimodal, size: int | None = None, precision: str = 'fp32'
    ) -> None:
        if precision not in PRECISIONS:
            raise ValueError(f'precision is one of {PRECISIONS}, got {precision!r}')
        if not hasattr(model, 'cross_modal_image_pooler_itc'):
            raise ImageIndexError(
                f"this {type(model).__name__} has no part 'itc' (the dual encoder), which an index "
                "is made with: add it to the model's parts (FiberPretrain: losses)"
            )
        if not hasattr(model.data_preprocessor, 'tokenize'):
            raise ImageIndexError(
                f'the data preprocessor of this {type(model).__name__} knows no texts: wanted '
                f'FiberImageTextPreprocessor, got {type(model.data_preprocessor).__name__}'
            )
        self.model = model.eval()
        self.size = image_size(getattr(model, 'cfg', {})) if size is None else size
        self.precision = precision

    @property
    def dim(self) -> int:
        """Width of the features."""
        return self.model.cross_modal_image_pooler_itc.dense.out_features

    @property
    def transform(self) -> BaseTransform:
        """What makes a loaded image as large as the model wants it."""
        return FiberSquareResize(self.size)

    # ---- who made the features ---------------------------------------------------------------

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Everything but the weights that the features depend on, fit for JSON."""
        cfg = dataclasses.asdict(self.model.encoder.cfg)
        preprocessor = self.model.data_preprocessor

        def numbers(name: str) -> list[float] | None:
            value = getattr(preprocessor, name, None)
            return None if value is None else [round(v, 6) for v in value.flatten().tolist()]

        settings = {
            'precision': self.precision,
            'size': self.size,
            'mean': numbers('mean'),
            'std': numbers('std'),
            'to_rgb': bool(preprocessor.to_rgb),
            'joint_dim': self.dim,
        }
        for part in ('swin', 'roberta', 'fusion'):
            for name, value in cfg[part].items():
                if name not in _TRAINING_ONLY:
                    value = list(value) if isinstance(value, tuple) else value
                    settings[f'{part}.{name}'] = value
        return settings

    @cached_property
    def weights(self) -> str:
        """SHA-256 over the weights of the dual encoder; those of other parts do not count."""
        digest = hashlib.sha256()
        for name, value in sorted(self.model.state_dict().items()):
            if name.startswith('encoder.') or '_itc.' in name:
                digest.update(f'{name} {tuple(value.shape)} {value.dtype}\n'.encode())
                plain = value.detach().cpu().contiguous().flatten().view(torch.uint8)
                digest.update(memoryview(plain.numpy()))
        return digest.hexdigest()

    # ---- features ----------------------------------------------------------------------------

    @torch.inference_mode()
    def image_features(self, images: Tensor) -> np.ndarray:
        """Features of images.

        Args:
            images: (B, 3, S, S) uint8, BGR.
        Returns: (B, D) float32 of length 1.
        """
        with self._autocast():
            pooled = self.model.contrast_image(self._image_trunk(images)).pooled
        return _unit(pooled)

    @torch.inference_mode()
    def text_trunk(self, text: str) -> TextTrunk:
        """The part of the work on a text that all images share; a batch of one.

        Raises: ValueError: if the text is empty.
        """
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f'a text of at least one word is wanted, got {text!r}')
        preprocessor = self.model.data_preprocessor
        ids, mask, *_ = preprocessor.cast_data(tuple(preprocessor.tokenize([text])))
        with self._autocast():
            return self.model.encoder.text_trunk(ids, mask)

    @torch.inference_mode()
    def text_features(self, text: TextTrunk) -> np.ndarray:
        """Features of a text: (D,) float32 of length 1."""
        with self._autocast():
            pooled = self.model.contrast_text(text).pooled
        return _unit(pooled)[0]

    @torch.inference_mode()
    def match(self, images: Tensor, text: TextTrunk) -> np.ndarray:
        """Log-odds that each image and a text match: (B,) float32, by the fused pass.

        Not the probability, which is 1 in fp32 from log-odds of 17 on: that would make ties.

        Args:
            images: (B, 3, S, S) uint8, BGR.
            text: From :meth:`text_trunk`.
        """
        self.check_matching()
        with self._autocast():
            fused = self.model.encoder.fuse(self._image_trunk(images), text.repeat(len(images)))
            logits = self.model.itm_score(self.model.joint(fused).pooled)
        wrong, right = logits.float().unbind(-1)
        return (right - wrong).cpu().numpy()

    @property
    def lacking(self) -> list[str]:
        """Parts that the model lacks to tell whether image and text match."""
        return [
            part
            for part, head in (('fused', 'cross_modal_image_pooler'), ('itm', 'itm_score'))
            if not hasattr(self.model, head)
        ]

    def check_matching(self) -> None:
        """Raise an ImageIndexError if the model cannot tell whether image and text match."""
        if self.lacking:
            raise ImageIndexError(
                f're-ranking needs the parts {self.lacking}, which this '
                f'{type(self.model).__name__} does not have: leave re-ranking out, or take a model '
                'trained for matching (ITM)'
            )

    def _image_trunk(self, images: Tensor) -> Any:
        # mmpretrain's part of the preprocessing: pixels alone, there are no texts yet.
        batch = MultiModalDataPreprocessor.forward(
            self.model.data_preprocessor, {'inputs': images}, False
        )
        return self.model.encoder.image_trunk(batch['images'])._replace(stage_maps=())

    def _autocast(self) -> torch.autocast:
        device = next(self.model.parameters()).device.type
        return torch.autocast(device, torch.bfloat16, enabled=self.precision == 'bf16')


def image_size(cfg: Mapping[str, Any]) -> int:
    """Side of the squares that a config's data pipelines make of images.

    Raises: ImageIndexError: if no pipeline says.
    """
    for loader in ('test_dataloader', 'val_dataloader', 'train_dataloader'):
        for step in _steps((cfg.get(loader) or {}).get('dataset')):
            if step.get('type') in ('FiberSquareResize', 'FiberRandomResizedCrop'):
                return step['size']
    raise ImageIndexError(
        'how large the model wants its images is not known: the config has no data pipeline with '
        'FiberSquareResize or FiberRandomResizedCrop. Give the size in pixels (--size)'
    )


def _steps(dataset: Any) -> list[Mapping[str, Any]]:
    """All steps of the pipelines of a data set and of those in it."""
    if isinstance(dataset, (list, tuple)):
        return [step for one in dataset for step in _steps(one)]
    if not isinstance(dataset, Mapping):
        return []
    steps = [step for step in dataset.get('pipeline') or () if isinstance(step, Mapping)]
    return steps + _steps(dataset.get('dataset')) + _steps(dataset.get('datasets'))


def _unit(pooled: Tensor) -> np.ndarray:
    """Length 1 in fp32, whatever the precision was."""
    features = F.normalize(pooled.float(), dim=-1).cpu().numpy()
    if not np.isfinite(features).all():
        raise ImageIndexError(
            'the model makes features that are no numbers (NaN): its weights are damaged, '
            'look for NaN in the checkpoint'
        )
    return features
