"""Coarse pre-training: image-text contrast, image-text matching, masked language modelling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from mmengine.dist import all_reduce, broadcast, get_dist_info, get_world_size
from mmpretrain.structures import DataSample
from torch import Tensor

from fiber_mm.models.losses.itc import ContrastOutput, contrastive_loss
from fiber_mm.models.losses.itm import draw, matching_loss, negative_weights
from fiber_mm.models.losses.mlm import masked_token_loss
from fiber_mm.models.multimodal.base import FiberMultimodal, JointFeatures
from fiber_mm.models.multimodal.queue import NegativeQueue
from fiber_mm.models.utils.gather import gather_batch, places_in_gathered, select_gathered
from fiber_mm.registry import MODELS
from fiber_mm.structures import ImageTrunk, TextBatch, TextTrunk

LOSSES = ('itc', 'itm', 'mlm')
PARTS_OF = dict(itc=('itc',), itm=('fused', 'itm'), mlm=('fused', 'mlm'))
TEMPERATURES = (0.001, 1.0)


class Trunks(NamedTuple):
    """The trunks of a step, one for each distinct input.

    Attributes:
        image, text: of the B pairs; no text with MLM alone, which sees hidden words only.
        masked: of the texts with words hidden; None without MLM.
    """

    image: ImageTrunk
    text: TextTrunk | None
    masked: TextTrunk | None


@MODELS.register_module()
class FiberPretrain(FiberMultimodal):
    """Pre-training of the coarse stage (FIBER, section 3.2).

    Every distinct input goes through its trunk once a step: contrast (gates shut), matching of
    the pairs and of two sets of negatives, and MLM share the image's.

    Args:
        losses: Which of ``itc``, ``itm``, ``mlm`` to train; they are summed. With fewer than all
            some parameters of the encoder are unused: DDP needs ``find_unused_parameters=True``.
        negatives: ``'batch'``: contrast and hard negatives within the batch of all ranks, with
            gradients on both sides; negatives' trunks are those that are there already (gathered
            over the ranks, 1.2 MB an image at 384 pixels in fp32). ``'queue'``: the original's
            semantics: candidates are the rank's own batch and a queue of past samples, detached,
            and negatives from the queue go through the trunks again.
        hard_negatives: Whether negatives for matching are drawn by similarity (needs ``itc``);
            False draws them evenly.
        queue: Settings of :class:`NegativeQueue`, ``size`` and ``noise``.
        parts: See :class:`FiberMultimodal`; None builds what the losses need.
        **kwargs: For :class:`FiberMultimodal`: ``swin``, ``roberta``, ``fusion``, ...
    Raises: ValueError: for settings that do not go together.
    """

    def __init__(
        self,
        *,
        losses: Sequence[str] = LOSSES,
        negatives: str = 'batch',
        hard_negatives: bool = True,
        queue: Mapping[str, Any] | None = None,
        parts: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        if not losses or set(losses) - set(LOSSES):
            raise ValueError(f'losses are some of {LOSSES}, got {tuple(losses)}')
        if negatives not in ('batch', 'queue'):
            raise ValueError(f"negatives are from the 'batch' or a 'queue', got {negatives!r}")
        if queue is not None and negatives != 'queue':
            raise ValueError(f"settings of a queue need negatives='queue', got {negatives!r}")
        if 'itm' in losses and 'itc' not in losses and hard_negatives:
            raise ValueError(
                'hard negatives are drawn by the similarities of the contrast: with losses '
                f'{tuple(losses)} set hard_negatives=False'
            )
        if negatives == 'queue' and 'itc' not in losses:
            raise ValueError(
                f'a queue holds features of the contrast: with losses {tuple(losses)} set '
                "negatives='batch'"
            )
        needed = {part for loss in losses for part in PARTS_OF[loss]}
        super().__init__(parts=sorted(needed) if parts is None else parts, **kwargs)
        if parts is not None and needed - set(parts):
            raise ValueError(f'losses {tuple(losses)} need the parts {sorted(needed)}, got {parts}')
        self.losses = tuple(losses)
        self.hard_negatives = hard_negatives
        self.queue: NegativeQueue | None = None
        preprocessor = self.data_preprocessor
        if negatives == 'queue':
            mean, std = getattr(preprocessor, 'mean', None), getattr(preprocessor, 'std', None)
            self.queue = NegativeQueue(**(queue or {}), mean=mean, std=std)
        if hasattr(preprocessor, 'text'):
            preprocessor.text.expect_vocab_size(self.encoder.cfg.roberta.vocab_size)

    def forward(
        self,
        images: Tensor,
        texts: TextBatch,
        data_samples: list[DataSample] | None = None,
        mode: str = 'tensor',
    ) -> JointFeatures | list[DataSample] | dict[str, Tensor]:
        """mmengine's entry.

        Args:
            images: (B, 3, H, W), normalised.
            texts: their texts.
            data_samples: the samples, which ``predict`` adds to.
            mode: ``loss``, ``predict`` or ``tensor`` (fused features of the pairs).
        Raises: ValueError: for another mode.
        """
        if mode == 'loss':
            return self.loss(images, texts)
        if mode == 'predict':
            return self.predict(images, texts, data_samples)
        if mode == 'tensor':
            return self.joint(self.encoder(images, texts.input_ids, texts.attention_mask))
        raise ValueError(f"mode is 'loss', 'predict' or 'tensor', got {mode!r}")

    # ---- training ----------------------------------------------------------------------------

    def loss(self, images: Tensor, texts: TextBatch) -> dict[str, Tensor]:
        """Losses of a batch.

        Args:
            images: (B, 3, H, W), normalised; B is the same on all ranks.
            texts: their texts, with hidden words if MLM is trained.
        Returns: ``loss_itc``, ``loss_itm``, ``loss_mlm``, as far as trained, and the accuracies
            ``acc_itm``, ``acc_mlm``.
        Raises:
            KeyError: if no words are hidden.
            ValueError: if the batch has no negatives, or does not suit the queue.
        """
        if 'mlm' in self.losses and texts.masked_ids is None:
            raise KeyError(
                'the texts have no hidden words, which MLM needs: put FiberMaskTokens into the '
                "pipeline, and 'mlm_ids' and 'mlm_labels' among the packer's keys"
            )
        # What is never encoded again needs no place in the queue: a pixel stands for it.
        queued = images if self.queues_images else images[..., :1, :1]
        if self.queue is not None:
            self.queue.check(queued, texts.input_ids)
        trunks, losses, contrast = self.trunks(images, texts), {}, None
        own, drawable = self.places(len(images), images.device)
        if 'itc' in self.losses:
            image = self.contrast_image(trunks.image).pooled
            text = self.contrast_text(trunks.text).pooled
            with torch.no_grad():
                self.temp.clamp_(*TEMPERATURES)
            contrast = contrastive_loss(image, text, *self.candidates(image, text), own, self.temp)
            losses['loss_itc'] = contrast.loss
        pairs, match = [], None
        if 'itm' in self.losses:
            pairs, match = self.matching_pairs(trunks, contrast, own, drawable)
        if 'mlm' in self.losses:
            pairs = [*pairs, (trunks.image, trunks.masked)]
        if pairs:
            losses |= self.fused_losses(pairs, match, texts)
        if self.queue is not None and self.training:
            pixels = self.queue.pixels_of(queued)
            batch = (image, text, pixels, texts.input_ids, texts.attention_mask)
            self.queue.put(*map(gather_batch, batch))
        return losses

    @property
    def queues_images(self) -> bool:
        """Whether images of the queue are needed again, as negatives for matching."""
        return 'itm' in self.losses

    def trunks(self, images: Tensor, texts: TextBatch) -> Trunks:
        """The trunks of a batch's images, texts and masked texts, as far as losses need them."""
        kinds = {}
        if {'itc', 'itm'} & set(self.losses):
            kinds['text'] = texts.input_ids
        if 'mlm' in self.losses:
            kinds['masked'] = texts.masked_ids
        ids, mask = torch.cat([*kinds.values()]), texts.attention_mask.repeat(len(kinds), 1)
        both, batch = self.encoder.text_trunk(ids, mask), len(images)  # one call for both kinds
        found = {
            kind: both.select(slice(place * batch, (place + 1) * batch))
            for place, kind in enumerate(kinds)
        }
        return Trunks(self.encode_images(images), found.get('text'), found.get('masked'))

    def places(self, batch: int, device: torch.device) -> tuple[Tensor, int]:
        """Where the rank's own pairs stand among the candidates, and how many can be drawn.

        Raises: ValueError: if the own pair is all there is.
        """
        if self.queue is not None:
            return torch.arange(batch, device=device), batch + self.queue.filled
        own = places_in_gathered(batch, device)
        total = batch * get_world_size()
        if total < 2 and {'itc', 'itm'} & set(self.losses):
            raise ValueError(
                'a batch of one pair has no negatives: take a larger batch_size, or '
                "negatives='queue'"
            )
        return own, total

    def candidates(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """What the batch is contrasted with: images and texts (C, D), from features (B, D)."""
        if self.queue is None:
            return gather_batch(image, with_grad=True), gather_batch(text, with_grad=True)
        images, texts = self.queue.features(image)
        return torch.cat([image, images]).detach(), torch.cat([text, texts]).detach()

    def matching_pairs(
        self, trunks: Trunks, contrast: ContrastOutput | None, own: Tensor, drawable: int
    ) -> tuple[list[tuple[ImageTrunk, TextTrunk]], Tensor]:
        """What matching is trained on: the pairs, and each side with a negative of the other.

        Args:
            trunks: of the batch.
            contrast, own, drawable: see :meth:`draw_negatives`.
        Returns: groups of pairs, (N,) in all, and which of them match, (N,) bool.
        """
        wrong = self.fetch(trunks, *self.draw_negatives(contrast, own, drawable))
        groups = [
            (trunks.image, trunks.text),
            (trunks.image, wrong.text),
            (wrong.image, trunks.text),
        ]
        batch = len(own)
        return groups, torch.arange(3 * batch, device=own.device) < batch

    def draw_negatives(
        self, contrast: ContrastOutput | None, own: Tensor, drawable: int
    ) -> tuple[Tensor, Tensor]:
        """For each text an image that does not belong to it, for each image such a text.

        Args:
            contrast: similarities to all candidates; not needed without ``hard_negatives``.
            own: (B,) int64, which candidate does belong to it.
            drawable: that many of the candidates, from the first, can be drawn.
        Returns: indices of images and of texts among the candidates, (B,) int64 each.
        """
        if self.hard_negatives:
            weights = [
                negative_weights(similarity[:, :drawable], own)
                for similarity in (contrast.t2i, contrast.i2t)
            ]
        else:
            even = torch.ones(len(own), drawable, device=own.device)
            weights = [even.scatter(1, own[:, None], 0.0)] * 2
        # The first rank draws for all, in the order of the gathered batch: so a batch has the
        # same negatives on any number of ranks.
        rank, world = get_dist_info()
        uniform = torch.rand(2, len(own), world, device=own.device)
        broadcast(uniform)
        return draw(weights[0], uniform[0, :, rank]), draw(weights[1], uniform[1, :, rank])

    def fetch(self, trunks: Trunks, images: Tensor, texts: Tensor) -> Trunks:
        """The trunks of candidates.

        Args:
            trunks: those of the batch, which is the first part of the candidates.
            images, texts: (B,) int64 indices among the candidates.
        """
        image, text = trunks.image, trunks.text
        if self.queue is None:
            image = image.map(lambda t: select_gathered(t, images))
            return Trunks(image, text.map(lambda t: select_gathered(t, texts)), None)
        if self.queue.filled == 0:
            return Trunks(image.select(images), text.select(texts), None)
        # As many trunks as there are negatives, whether they are needed or not: how many of them
        # lie in the queue, the host could only know by waiting for the device.
        batch, last = len(images), len(images) - 1
        slots = ((index - batch).clamp(min=0) for index in (images, texts))
        queued = self.queue.inputs(*slots)
        far_image = self.encoder.image_trunk(queued.images)
        far_text = self.encoder.text_trunk(queued.input_ids, queued.attention_mask)
        near_image = image.select(images.clamp(max=last))
        near_text = text.select(texts.clamp(max=last))
        near = (images < batch)[:, None, None, None]
        image = ImageTrunk(torch.where(near, near_image.tokens, far_image.tokens), ())
        near = (texts < batch)[:, None]
        text = TextTrunk(
            torch.where(near[..., None], near_text.tokens, far_text.tokens),
            torch.where(near, near_text.mask, far_text.mask),
        )
        return Trunks(image, text, None)

    def fused_losses(
        self,
        pairs: Sequence[tuple[ImageTrunk, TextTrunk]],
        match: Tensor | None,
        texts: TextBatch,
    ) -> dict[str, Tensor]:
        """Losses of the fused pass, which is one for all groups of pairs.

        Args:
            pairs: those of :meth:`matching_pairs`, then the B pairs with hidden words for MLM, as
                far as trained.
            match: (N,) bool, which of the first N pairs match; None without matching.
            texts: for the hidden words.
        """
        images, captions = zip(*pairs)
        fused = self.encoder.fuse(ImageTrunk.cat(images), TextTrunk.cat(captions))
        losses = {}
        if 'itm' in self.losses:
            matched = fused._replace(
                image_tokens=fused.image_tokens[: len(match)],
                text_tokens=fused.text_tokens[: len(match)],
            )
            logits = self.itm_score(self.joint(matched).pooled)
            losses['loss_itm'] = matching_loss(logits, match)
            losses['acc_itm'] = ((logits[:, 1] > logits[:, 0]) == match).float().mean()
        if 'mlm' in self.losses:
            tokens = fused.text_tokens[-len(texts.input_ids) :].flatten(0, 1)[
                texts.masked_positions
            ]
            logits = self.mlm_score(self.cross_modal_text_transform(tokens))
            count = float(len(tokens))
            if get_world_size() > 1:
                count = torch.full((), count, device=tokens.device)
                all_reduce(count, 'mean')
            losses['loss_mlm'] = masked_token_loss(logits, texts.masked_labels, count)
            right = (logits.argmax(-1) == texts.masked_labels).float().sum()
            losses['acc_mlm'] = right / max(len(tokens), 1)
        return losses

    # ---- use ---------------------------------------------------------------------------------

    @torch.no_grad()
    def predict(
        self, images: Tensor, texts: TextBatch, data_samples: list[DataSample] | None = None
    ) -> list[DataSample]:
        """How well each image and its text go together.

        Args:
            images: (B, 3, H, W), normalised.
            texts: their texts.
            data_samples: what to add to; None makes new ones.
        Returns: the samples with ``match_score``, the probability of a match in [0, 1] (with
            ``itm``), and ``similarity``, the cosine in [-1, 1] (with ``itc``); scalar tensors.
        """
        trunk = self.encoder.image_trunk(images)
        text = self.encoder.text_trunk(texts.input_ids, texts.attention_mask)
        scores = {}
        if 'itm' in self.losses:
            logits = self.itm_score(self.joint(self.encoder.fuse(trunk, text)).pooled)
            scores['match_score'] = logits.float().softmax(-1)[:, 1]
        if 'itc' in self.losses:
            image, text = self.contrast_image(trunk).pooled, self.contrast_text(text).pooled
            scores['similarity'] = (image.float() * text.float()).sum(-1)
        samples = [DataSample() for _ in images] if data_samples is None else data_samples
        for name, values in scores.items():
            for sample, value in zip(samples, values):
                sample.set_field(value, name)
        return samples
