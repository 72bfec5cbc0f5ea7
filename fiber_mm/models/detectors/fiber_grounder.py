"""The detector: fused backbone, FPN and token-scored dense head behind mmdet's interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmdet.models.detectors import SingleStageDetector
from mmdet.structures import DetDataSample
from torch import Tensor

from fiber_mm.engine.checkpoint import refuse, weight_faults
from fiber_mm.models.data_preprocessors.text import TokenizedPrompt
from fiber_mm.models.utils.repeats import encode_once
from fiber_mm.registry import MODELS
from fiber_mm.structures import ImageTrunk, TextTrunk


@MODELS.register_module()
class FiberGrounder(SingleStageDetector):
    """Open-vocabulary detector and phrase grounder (FIBER, section 3.3; GLIP's formulation).

    ``DetDataSample`` in and out. Every sample carries ``prompts``, the tokenised texts that
    :class:`FiberDataPreprocessor` makes of class lists, captions with spans or free captions.
    A class list that needs several prompts shares one image trunk, and the candidates of all
    of them compete in one top-k and one NMS. In prediction neighbours in a batch that are the same
    image, with another caption each, share a trunk, too.

    Args:
        backbone: Config of :class:`FiberBackbone` with a text side.
        neck: Config of mmdet's ``FPN`` (or :class:`FiberFPN`).
        bbox_head: Config of :class:`FiberATSSHead`.
        train_cfg, test_cfg: As in mmdet; handed to the head.
        data_preprocessor: Config of :class:`FiberDataPreprocessor`.
        init_cfg: mmengine's initialisation.
    Raises: ValueError: if the tokenizer does not fit the model's vocabulary.
    """

    def __init__(
        self,
        backbone: dict,
        neck: dict,
        bbox_head: dict,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(
            backbone=backbone,
            neck=neck,
            bbox_head=bbox_head,
            train_cfg=train_cfg,
            test_cfg=test_cfg,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )
        roberta = self.backbone.encoder.cfg.roberta
        if roberta is None:
            raise ValueError(
                'FiberGrounder needs a text side: give backbone.roberta (an empty dict is '
                'roberta-base), or use another detector for a backbone without text'
            )
        if hasattr(self.data_preprocessor, 'text'):
            self.data_preprocessor.text.expect_vocab_size(roberta.vocab_size)
        self._lenient = False
        # Weights that the loaded checkpoint lacked.
        self._missing: list[str] = []

    # ---- parts -----------------------------------------------------------------------------

    def image_trunk(self, images: Tensor) -> ImageTrunk:
        """What all prompts of an image share: (B, 3, H, W) -> trunk."""
        return self.backbone.encoder.image_trunk(images)

    def text_trunk(self, prompts: Sequence[TokenizedPrompt]) -> TextTrunk:
        """One text per image; equal prompts are encoded once."""
        first = prompts[0]
        if len(prompts) > 1 and all(p is first for p in prompts) and not self.training:
            trunk = self.backbone.encoder.text_trunk(
                first.input_ids[None], first.attention_mask[None]
            )
            return trunk.repeat(len(prompts))
        return self.backbone.encoder.text_trunk(
            torch.stack([p.input_ids for p in prompts]),
            torch.stack([p.attention_mask for p in prompts]),
        )

    def grounded_features(
        self, image: ImageTrunk, text: TextTrunk
    ) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        """The head's inputs: FPN maps, text (B, T, D) with padding exactly 0, mask (B, T)."""
        maps, features = self.backbone.fuse(image, text)
        mask = features.text_mask
        return self.neck(maps), features.text_tokens * mask[..., None], mask

    # ---- weights ---------------------------------------------------------------------------

    def load_state_dict(
        self, state_dict: Mapping, strict: bool = True, assign: bool = False
    ) -> Any:
        """torch's; its ``strict=False`` is a wish and checked no further."""
        self._lenient = not strict
        try:
            return super().load_state_dict(state_dict, strict, assign)
        finally:
            self._lenient = False

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        """Refuse weights that do not fit.

        mmengine's loading, as in DetInferencer or ``Runner``, comes here, too, and would only log
        them. What the checkpoint lacks may be trained, but not used for prediction.
        """
        weights = {
            key.removeprefix(prefix): value
            for key, value in state_dict.items()
            if key.startswith(prefix)
        }
        if self._lenient:
            self._missing = [key for key in self._missing if key not in weights]
        else:
            faults = weight_faults(self, weights)
            self._missing = faults.pop('missing')
            refuse(faults, self, 'the checkpoint')
        super()._load_from_state_dict(state_dict, prefix, *args)

    # ---- mmdet's interface -------------------------------------------------------------------

    def val_step(self, data: dict | tuple | list) -> list[DetDataSample]:
        """See :meth:`test_step`."""
        return _without_prompts(super().val_step(data))

    def test_step(self, data: dict | tuple | list) -> list[DetDataSample]:
        """mmengine's. What is kept of the results does not keep the prompts' tensors."""
        return _without_prompts(super().test_step(data))

    def loss(self, batch_inputs: Tensor, batch_data_samples: list[DetDataSample]) -> dict:
        """Losses of a batch of detection and grounding samples alike.

        Args:
            batch_inputs: (B, 3, H, W), normalised and padded.
            batch_data_samples: each with ``prompts`` (one) and ``gt_instances``
                (``bboxes``, ``positive_map``).
        Returns: ``loss_cls``, ``loss_bbox``, ``loss_centerness``.
        """
        self._missing = []  # they are being trained
        prompts = [self._prompts(sample)[0] for sample in batch_data_samples]
        features = self.grounded_features(self.image_trunk(batch_inputs), self.text_trunk(prompts))
        return self.bbox_head.loss(*features, batch_data_samples)

    def predict(
        self,
        batch_inputs: Tensor,
        batch_data_samples: list[DetDataSample],
        rescale: bool = True,
    ) -> list[DetDataSample]:
        """Boxes, scores, labels and label names, in ``pred_instances`` of every sample.

        Args:
            batch_inputs: (B, 3, H, W), normalised and padded.
            batch_data_samples: each with ``prompts`` (one or more chunks).
            rescale: whether boxes are given in the original image's pixels.
        """
        trunk = encode_once(self.image_trunk, batch_inputs, batch_data_samples)
        return self.predict_by_trunk(trunk, batch_data_samples, rescale)

    def predict_by_trunk(
        self, trunk: ImageTrunk, samples: list[DetDataSample], rescale: bool = True
    ) -> list[DetDataSample]:
        """:meth:`predict` for images that went through :meth:`image_trunk` before."""
        refuse({'missing': self._missing}, self, 'the loaded checkpoint')
        prompts = [self._prompts(sample) for sample in samples]
        if len({len(p) for p in prompts}) == 1:
            results = self._detect(trunk, prompts, samples, rescale)
        else:  # images with another number of chunks each
            results = []
            for i, chunks in enumerate(prompts):
                results += self._detect(trunk.select(i), [chunks], samples[i : i + 1], rescale)
        for chunks, instances in zip(prompts, results):
            names = {}
            for chunk in chunks:
                names.update(zip(chunk.labels.tolist(), chunk.names))
            instances.label_names = [names[label] for label in instances.labels.tolist()]
        return self.add_pred_to_datasample(samples, results)

    def _detect(
        self,
        trunk: ImageTrunk,
        prompts: list[list[TokenizedPrompt]],
        samples: list[DetDataSample],
        rescale: bool,
    ) -> list:
        chunks = list(zip(*prompts))  # by chunk, then by image
        outputs = [
            self.bbox_head(*self.grounded_features(trunk, self.text_trunk(chunk)))
            for chunk in chunks
        ]
        return self.bbox_head.predict_by_outputs(
            outputs,
            [[p.token_map for p in chunk] for chunk in chunks],
            [[p.labels for p in chunk] for chunk in chunks],
            [sample.metainfo for sample in samples],
            rescale=rescale,
        )

    def _forward(self, batch_inputs: Tensor, batch_data_samples: list[DetDataSample]):
        """The head's raw outputs for the first prompt of every sample (mode ``tensor``)."""
        prompts = [self._prompts(sample)[0] for sample in batch_data_samples]
        features = self.grounded_features(self.image_trunk(batch_inputs), self.text_trunk(prompts))
        return self.bbox_head(*features)

    @staticmethod
    def _prompts(sample: DetDataSample) -> list[TokenizedPrompt]:
        if 'prompts' not in sample:
            raise KeyError(
                "a data sample has no 'prompts': run the batch through the model's "
                'data_preprocessor (FiberDataPreprocessor), as test_step and train_step do'
            )
        return sample.prompts


def _without_prompts(samples: list[DetDataSample]) -> list[DetDataSample]:
    for sample in samples:
        sample.pop('prompts', None)
    return samples
