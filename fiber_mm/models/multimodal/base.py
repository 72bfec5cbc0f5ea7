"""What the models of the coarse stage share: the encoder and the joint space above it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from torch import Tensor, nn

from fiber_mm.engine.stages import refuse_foreign, resize_tables_on_load
from fiber_mm.models.backbones.fiber_backbone import build_encoder
from fiber_mm.models.multimodal.heads import ITMHead, MLMHead, Pooler, init_head
from fiber_mm.registry import MODELS
from fiber_mm.structures import FusedFeatures, ImageTrunk, TextBatch, TextTrunk

PARTS = ('fused', 'itc', 'mlm', 'itm')
RANK_BY = ('itm_score', 'rank_output')


class JointFeatures(NamedTuple):
    """A fused pair in the joint space.

    Attributes:
        text: (B, T, D).
        image: (B, N, D).
        pooled: (B, 2 D), text first.
    """

    text: Tensor
    image: Tensor
    pooled: Tensor


class Contrast(NamedTuple):
    """One modality encoded alone, for image-text contrast.

    Attributes:
        tokens: (B, S, D) in the contrastive space.
        pooled: (B, D), of length 1.
    """

    tokens: Tensor
    pooled: Tensor


@MODELS.register_module()
class FiberMultimodal(BaseModel):
    """Encoder, transforms to the joint space, poolers and the pre-training heads.

    The base of the task models, which add their data flow and losses; by itself it gives
    features and scores, on trunks that are computed once per image and per text: what
    :class:`fiber_mm.engine.FiberRetrievalTestLoop` evaluates.

    Args:
        swin, roberta, fusion: Settings of the encoder, see :class:`FiberBackbone`.
        parts: Which of the parts below to build: ``fused`` (transforms and poolers of the
            fused pass), ``itc`` (those of the contrastive one, and the temperature), ``mlm``,
            ``itm`` (with the separate ranking head of released checkpoints).
        joint_dim: Width of the joint space.
        with_cp: Recompute blocks in the backward pass to save memory.
        data_preprocessor: Config of the data preprocessor.
        init_cfg: mmengine's initialisation.
    Attributes:
        rank_by: What :meth:`pair_scores` are made of: ``'itm_score'``, the log-odds of a match by
            the trained head, or ``'rank_output'``, the original's separate head, which is never
            trained, by the original neither.
    Raises:
        TypeError: for a setting that the encoder does not have.
        ValueError: for an unknown part.
    """

    rank_by = 'itm_score'

    def __init__(
        self,
        swin: Mapping[str, Any] | None = None,
        roberta: Mapping[str, Any] | None = None,
        fusion: Mapping[str, Any] | None = None,
        parts: Sequence[str] = PARTS,
        joint_dim: int = 768,
        with_cp: bool = False,
        data_preprocessor: dict | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        unknown = set(parts) - set(PARTS)
        if unknown:
            raise ValueError(f'unknown parts {sorted(unknown)}; there are {PARTS}')
        self.encoder = build_encoder(swin, roberta or {}, fusion, with_cp)
        self.encoder.register_load_state_dict_pre_hook(resize_tables_on_load)
        self.register_load_state_dict_pre_hook(refuse_foreign)
        cfg = self.encoder.cfg
        text_dim = cfg.roberta.hidden_size
        image_dim = cfg.swin.width(len(cfg.swin.depths) - 1)
        heads = {}
        if 'fused' in parts:
            heads['cross_modal_text_transform'] = nn.Linear(text_dim, joint_dim)
            heads['cross_modal_image_transform'] = nn.Linear(image_dim, joint_dim)
            heads['cross_modal_text_pooler'] = Pooler(joint_dim)
            heads['cross_modal_image_pooler'] = Pooler(joint_dim)
        if 'itc' in parts:
            heads['cross_modal_text_transform_itc'] = nn.Linear(text_dim, joint_dim)
            heads['cross_modal_image_transform_itc'] = nn.Linear(image_dim, joint_dim)
            heads['cross_modal_text_pooler_itc'] = Pooler(joint_dim)
            heads['cross_modal_image_pooler_itc'] = Pooler(joint_dim)
            self.temp = nn.Parameter(torch.tensor(0.07))
        if 'mlm' in parts:
            heads['mlm_score'] = MLMHead(joint_dim, cfg.roberta.vocab_size)
        if 'itm' in parts:
            heads['itm_score'] = ITMHead(2 * joint_dim)
            # Starts as row 1 of `itm_score.fc`, but is never trained by the original, so in
            # released checkpoints it is a stale tensor of its own.
            heads['rank_output'] = nn.Linear(2 * joint_dim, 1)
        for name, head in heads.items():
            init_head(head)
            self.add_module(name, head)
        if 'itm' in parts:
            with torch.no_grad():
                self.rank_output.weight.copy_(self.itm_score.fc.weight[1:])
            self.rank_output.requires_grad_(False)

    def joint(self, fused: FusedFeatures) -> JointFeatures:
        """Fused tokens in the joint space, and their pooled pair."""
        text = self.cross_modal_text_transform(fused.text_tokens)
        image = self.cross_modal_image_transform(fused.image_tokens)
        pooled = torch.cat(
            [
                self.cross_modal_text_pooler(text[:, 0]),
                self.cross_modal_image_pooler(image.mean(1)),
            ],
            dim=-1,
        )
        return JointFeatures(text, image, pooled)

    def contrast_image(self, trunk: ImageTrunk) -> Contrast:
        """Images alone in the contrastive space."""
        tokens = self.cross_modal_image_transform_itc(self.encoder.image_alone(trunk).tokens)
        pooled = self.cross_modal_image_pooler_itc(tokens.mean(1))
        return Contrast(tokens, F.normalize(pooled, dim=-1))

    def contrast_text(self, trunk: TextTrunk) -> Contrast:
        """Texts alone in the contrastive space."""
        tokens = self.cross_modal_text_transform_itc(self.encoder.text_alone(trunk))
        pooled = self.cross_modal_text_pooler_itc(tokens[:, 0])
        return Contrast(tokens, F.normalize(pooled, dim=-1))

    def rank_scores(self, pooled: Tensor) -> Tensor:
        """Score of a pair by the original's separate ranking head: (B, 2 D) -> (B,)."""
        return self.rank_output(pooled)[:, 0]

    @property
    def has_contrast(self) -> bool:
        """Whether images and texts have features of their own."""
        return hasattr(self, 'cross_modal_image_transform_itc')

    @property
    def has_matching(self) -> bool:
        """Whether pairs have scores."""
        return hasattr(self, 'itm_score')

    def encode_images(self, images: Tensor) -> ImageTrunk:
        """The part of the encoder that is the same for every text: (B, 3, H, W) -> a trunk.

        It has no feature maps of single stages, which are the detector's.
        """
        return self.encoder.image_trunk(images)._replace(stage_maps=())

    def encode_texts(self, texts: TextBatch) -> TextTrunk:
        """The part of the encoder that is the same for every image."""
        return self.encoder.text_trunk(texts.input_ids, texts.attention_mask)

    def image_features(self, trunk: ImageTrunk) -> Tensor:
        """Features of images for comparison by cosine: (B, D) fp32, of length 1."""
        return self.contrast_image(trunk).pooled.float()

    def text_features(self, trunk: TextTrunk) -> Tensor:
        """Features of texts for comparison by cosine: (B, D) fp32, of length 1."""
        return self.contrast_text(trunk).pooled.float()

    def pair_scores(self, image: ImageTrunk, text: TextTrunk) -> Tensor:
        """How well pairs match; higher is better, by ``rank_by``.

        Args:
            image, text: trunks of N pairs; select or repeat to pair them.
        Returns: (N,) fp32, any number.
        """
        pooled = self.joint(self.encoder.fuse(image, text)).pooled
        if self.rank_by == 'rank_output':
            return self.rank_scores(pooled).float()
        # Not the probability, which is 1 in fp32 from log-odds of 17 on: that would make ties.
        wrong, right = self.itm_score(pooled).float().unbind(-1)
        return right - wrong

    def score_matrix(self, image: ImageTrunk, text: TextTrunk, batch_size: int = 64) -> Tensor:
        """:meth:`pair_scores` of every image with every text.

        Args:
            image, text: trunks of I images and T texts.
            batch_size: most pairs that are fused at once.
        Returns: (I, T) fp32.
        """
        columns, device = len(text.tokens), image.tokens.device
        pairs = torch.arange(len(image.tokens) * columns, device=device)
        scores = [
            self.pair_scores(image.select(part // columns), text.select(part % columns))
            for part in pairs.split(batch_size)
        ]
        return torch.cat(scores).view(-1, columns)

    def forward(
        self, image: Tensor, input_ids: Tensor, attention_mask: Tensor, mode: str = 'tensor'
    ) -> JointFeatures:
        """Fused features of image-text pairs.

        Args:
            image: (B, 3, H, W), normalised.
            input_ids, attention_mask: (B, T).
            mode: only ``tensor``; losses and predictions are the task models'.
        Raises: ValueError: for another mode.
        """
        if mode != 'tensor':
            raise ValueError(f'{type(self).__name__} has no mode {mode!r}, only tensor')
        return self.joint(self.encoder(image, input_ids, attention_mask))
