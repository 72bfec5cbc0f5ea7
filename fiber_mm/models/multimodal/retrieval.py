"""Image-text retrieval: fine-tuning by contrast and by matching, features and scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import broadcast, get_world_size
from mmpretrain.structures import DataSample
from torch import Tensor

from fiber_mm.models.losses.itc import ContrastOutput
from fiber_mm.models.multimodal.base import RANK_BY
from fiber_mm.models.multimodal.pretrain import FiberPretrain, Trunks
from fiber_mm.models.utils.gather import places_in_gathered, select_gathered
from fiber_mm.registry import MODELS
from fiber_mm.structures import ImageTrunk, TextBatch, TextTrunk

LOSSES = ('itc', 'itm')


@MODELS.register_module()
class FiberRetrieval(FiberPretrain):
    """Finding images by text and texts by image (FIBER, section 4.1).

    With contrast (ITC) it is a dual encoder: one vector per image and per text, compared by cosine.
    With matching (ITM) every pair goes through the fused blocks, on trunks that are computed once
    per image and per text. :class:`fiber_mm.engine.FiberRetrievalTestLoop` evaluates both.

    Args:
        losses: Which of ``itc``, ``itm`` to train; they are summed. The original trains one of
            them. With fewer than both some parameters of the encoder are unused: DDP needs
            ``find_unused_parameters=True``.
        negatives, queue: Candidates of the contrast, see :class:`FiberPretrain`.
        hard_negatives: How matching gets its negatives. False, as the original fine-tunes: half
            of the pairs (rounded down, shuffled) are right, the others have the image of another
            pair, drawn evenly from the batch of all ranks. True, as in pre-training: every pair is
            right, and each image and each text has a second partner drawn by similarity; needs
            ``itc``.
        rank_by: What ranks pairs after matching. ``'itm_score'``: the log-odds of a match by the
            trained head. ``'rank_output'``: the original's separate head, which is never trained,
            by the original neither: for released checkpoints only.
        parts: See :class:`FiberMultimodal`; None builds what the losses need.
        **kwargs: For :class:`FiberMultimodal`: ``swin``, ``roberta``, ``fusion``, ...
    Raises: ValueError: for settings that do not go together.
    """

    def __init__(
        self,
        *,
        losses: Sequence[str] = ('itc',),
        hard_negatives: bool = False,
        rank_by: str = 'itm_score',
        **kwargs: Any,
    ) -> None:
        if not losses or set(losses) - set(LOSSES):
            raise ValueError(f'losses of retrieval are some of {LOSSES}, got {tuple(losses)}')
        if rank_by not in RANK_BY:
            raise ValueError(f'rank_by is one of {RANK_BY}, got {rank_by!r}')
        super().__init__(losses=losses, hard_negatives=hard_negatives, **kwargs)
        self.rank_by = rank_by

    @property
    def queues_images(self) -> bool:
        """Whether images of the queue are needed again, as negatives for matching."""
        return super().queues_images and self.hard_negatives

    def forward(
        self,
        images: Tensor,
        texts: TextBatch,
        data_samples: list[DataSample] | None = None,
        mode: str = 'tensor',
    ) -> dict[str, Tensor] | list[DataSample]:
        """mmengine's entry.

        Args:
            images: (B, 3, H, W), normalised.
            texts: their texts.
            data_samples: the samples, which ``predict`` adds to.
            mode: ``loss``, ``predict`` (``match_score`` and ``similarity`` of the pairs in the
                samples) or ``tensor`` (see :meth:`extract_feat`).
        Raises: ValueError: for another mode.
        """
        if mode == 'tensor':
            return self.extract_feat(images, texts)
        return super().forward(images, texts, data_samples, mode)

    # ---- training ----------------------------------------------------------------------------

    def matching_pairs(
        self, trunks: Trunks, contrast: ContrastOutput | None, own: Tensor, drawable: int
    ) -> tuple[list[tuple[ImageTrunk, TextTrunk]], Tensor]:
        """What matching is trained on; see :class:`FiberPretrain`."""
        if self.hard_negatives:
            return super().matching_pairs(trunks, contrast, own, drawable)
        match, partner = self.draw_partners(len(own), own.device)
        image = trunks.image.map(lambda t: select_gathered(t, partner))
        return [(image, trunks.text)], match

    def draw_partners(self, batch: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """An image for each text: its own for half of them, that of another pair for the rest.

        The first rank draws for all, so that a batch has the same pairs on any number of ranks.

        Args:
            batch: pairs of this rank.
            device: of the results.
        Returns: whether the image is the text's own, (batch,) bool; which of the images of all
            ranks it is, (batch,) int64.
        Raises: ValueError: if there is no other pair.
        """
        total = batch * get_world_size()
        if total < 2:
            raise ValueError(
                'a batch of one pair has no wrong image for matching: take a larger batch_size'
            )
        order, uniform = drawn = torch.rand(2, total, device=device)
        broadcast(drawn)
        right = order.argsort().argsort() < total // 2
        own = torch.arange(total, device=device)
        step = (uniform * (total - 1)).long().clamp(max=total - 2) + 1
        partner = torch.where(right, own, (own + step) % total)
        here = places_in_gathered(batch, device)
        return right[here], partner[here]

    # ---- use ---------------------------------------------------------------------------------

    def extract_feat(
        self, images: Tensor | None = None, texts: TextBatch | None = None
    ) -> dict[str, Tensor]:
        """Features of images, of texts, and scores of pairs, as far as the model has them.

        Args:
            images: (B, 3, H, W), normalised; None for texts alone.
            texts: None for images alone.
        Returns: ``image_feat`` and ``text_feat``, (B, D), with contrast; ``pair_score``, (B,), of
            each image with its text, with matching and if both are given.
        """
        found = {}
        image = None if images is None else self.encode_images(images)
        text = None if texts is None else self.encode_texts(texts)
        if image is not None and self.has_contrast:
            found['image_feat'] = self.image_features(image)
        if text is not None and self.has_contrast:
            found['text_feat'] = self.text_features(text)
        if image is not None and text is not None and self.has_matching:
            found['pair_score'] = self.pair_scores(image, text)
        return found
