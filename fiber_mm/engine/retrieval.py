"""Scores and ranks of image-text retrieval: every image and caption is encoded once.

Images are dealt out to the ranks in blocks of a batch, and what is computed for a block does not
depend on the number of ranks: so neither do the recalls, and a killed evaluation goes on with the
next block.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from mmengine.dist import all_reduce, get_dist_info
from mmengine.logging import MMLogger
from mmengine.runner import autocast
from torch import Tensor
from torch.utils.data import DataLoader

from fiber_mm.evaluation.functional.retrieval import ahead, best_ranks, reranked
from fiber_mm.structures import ImageTrunk, TextBatch, TextTrunk

from .block_cache import BlockCache, CacheError
from .gallery import Gallery

if TYPE_CHECKING:
    from fiber_mm.models.multimodal import FiberMultimodal

#: Parts of an encoded image or caption that each protocol needs.
PROTOCOLS = dict(itc=('features',), itm=('trunk',), itm_rerank=('features', 'trunk'))
LOG_EVERY = 30  # seconds


class RetrievalEvaluation:
    """Ranks of all images and captions by several protocols.

    Args:
        model: in eval mode.
        loader: its data set, collating and workers are used; its batch is the size of a block of
            images.
        gallery: of the data set.
        cache: for trunks, features and scores.
        parts: what is kept of an encoded image or caption, ``features`` and ``trunk``.
        text_batch_size: captions encoded at once.
        pair_batch_size: pairs fused at once.
        fp16: autocast, as mmengine's loops have it (bf16 on a CPU).
        candidates: features of all images (I, D) and captions (T, D) of another model, whose best
            are re-ranked; None takes the model's own.
        tokens: of all captions, if they are at hand.
    """

    def __init__(
        self,
        model: FiberMultimodal,
        loader: DataLoader,
        gallery: Gallery,
        cache: BlockCache,
        parts: Sequence[str] = ('features', 'trunk'),
        text_batch_size: int = 64,
        pair_batch_size: int = 64,
        fp16: bool = False,
        candidates: tuple[Tensor, Tensor] | None = None,
        tokens: TextBatch | None = None,
    ) -> None:
        self.model, self.loader, self.gallery, self.cache = model, loader, gallery, cache
        self.parts = tuple(parts)
        self.text_batch_size, self.pair_batch_size = text_batch_size, pair_batch_size
        self.fp16 = fp16
        self.rank, self.world = get_dist_info()
        self.device = next(model.parameters()).device
        size, count = block_size(loader), len(gallery.image_ids)
        self.image_blocks = list(torch.arange(count).split(size))
        self.text_blocks = list(torch.arange(len(gallery.texts)).split(text_batch_size))
        self.owner = gallery.image_of_text.to(self.device)
        self.my_blocks = range(self.rank, len(self.image_blocks), self.world)
        if tokens is None:
            tokens = model.data_preprocessor.prepare_texts(gallery.texts)
        self.tokens = tokens  # of one length
        self.candidates = candidates and tuple(part.to(self.device) for part in candidates)

    # -- protocols --

    @torch.no_grad()
    def ranks(self, protocol: str, rerank_topk: int = 128) -> tuple[Tensor, Tensor]:
        """Ranks of the right answers, on all ranks alike.

        Args:
            protocol: ``itc``, ``itm`` or ``itm_rerank``.
            rerank_topk: candidates that are re-ranked.
        Returns: (I,) int64, for each image the rank of its first caption among all; (T,) int64, for
            each caption the rank of its image.
        """
        if protocol == 'itc':
            return self.contrast_ranks
        if protocol == 'itm':
            blocks = {n: self.matching_rows(n) for n in self._progress(protocol, self.my_blocks)}
            return self.full_ranks(lambda number: blocks[number].to(self.device))
        return self.reranked(rerank_topk)

    @cached_property
    def contrast_ranks(self) -> tuple[Tensor, Tensor]:
        """Ranks by the dual encoder; see :meth:`ranks`."""
        return self._ranks_by(self.features)

    def _ranks_by(self, features: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Ranks by the cosines of some features of all images (I, D) and captions (T, D)."""
        images, texts = features
        return self.full_ranks(
            lambda number: images[self.image_blocks[number].to(self.device)] @ texts.t()
        )

    def full_ranks(self, rows: Callable[[int], Tensor]) -> tuple[Tensor, Tensor]:
        """Ranks by scores of all pairs, which are asked for twice, a block at a time.

        Args:
            rows: number of a block of this rank -> (images of it, T) scores.
        """
        image_ranks = self.owner.new_zeros(len(self.gallery.image_ids))
        own_scores = torch.zeros(len(self.owner), device=self.device)
        for number in self.my_blocks:
            scores, own = rows(number), self._own(number)
            image_ranks[self.image_blocks[number].to(self.device)] = best_ranks(scores, own)
            own_scores += scores.masked_fill(~own, 0.0).sum(0)  # one of each caption at most
        own_scores = self._sum(own_scores)
        text_ranks = torch.zeros_like(self.owner)
        for number in self.my_blocks:
            text_ranks += ahead(rows(number), own_scores[None], self._own(number)).sum(0)
        return self._sum(image_ranks), 1 + self._sum(text_ranks)

    def reranked(self, topk: int) -> tuple[Tensor, Tensor]:
        """Ranks by the dual encoder, whose first ``topk`` are ordered anew by matching."""
        images, texts = self.candidates or self.features
        captions, pictures = min(topk, len(texts)), min(topk, len(images))
        size = block_size(self.loader)
        # Of all images and captions, on every rank: a product of matrices is cheap.
        for_image = torch.cat([_best(part @ texts.t(), captions) for part in images.split(size)])
        for_text = torch.cat(
            [_best(part @ images.t(), pictures) for part in texts.split(self.text_batch_size)]
        )
        image_scores = torch.zeros(for_image.shape, device=self.device)
        text_scores = torch.zeros(for_text.shape, device=self.device)
        total = len(texts)
        # The candidates of captions, brought together by image.
        by_image, place = for_text.flatten().sort(stable=True)
        starts = torch.arange(len(self.image_blocks) + 1, device=self.device) * size
        ends = torch.searchsorted(by_image, starts).tolist()
        for number in self._progress(f'itm_rerank of {topk}', self.my_blocks):
            block = self.image_blocks[number].to(self.device)
            here = slice(ends[number], ends[number + 1])
            row = torch.arange(len(block), device=self.device)[:, None]
            # A pair is numbered by its row in the block and its caption.
            wanted = row * total + for_image[block]
            found = (by_image[here] - block[0]) * total + place[here] // pictures
            pairs = torch.cat([wanted.flatten(), found]).unique()
            scores = self.pair_scores(number, pairs, f'itm_rerank-{topk}')
            image_scores[block] = scores[torch.searchsorted(pairs, wanted)]
            text_scores.view(-1)[place[here]] = scores[torch.searchsorted(pairs, found)]
        before = self._ranks_by(self.candidates) if self.candidates else self.contrast_ranks
        own = self.owner[for_image] == torch.arange(len(images), device=self.device)[:, None]
        image_ranks = reranked(self._sum(image_scores), own, before[0])
        own = for_text == self.owner[:, None]
        return image_ranks, reranked(self._sum(text_scores), own, before[1])

    # -- scores --

    def matching_rows(self, number: int) -> Tensor:
        """Scores of a block of images with all captions by matching, on the host."""
        kind = 'itm'
        if (kind, number) not in self.cache:
            image = self.image_trunk(number)
            scores = [
                self._autocast(self.model.score_matrix, image, text, self.pair_batch_size)
                for text in map(self.text_trunk, range(len(self.text_blocks)))
            ]
            self.cache.put(kind, number, dict(scores=torch.cat(scores, 1)))
        return self.cache.get(kind, number)['scores']

    def pair_scores(self, number: int, pairs: Tensor, kind: str) -> Tensor:
        """Scores of some pairs of a block of images by matching.

        Args:
            number: of the block.
            pairs: (P,) int64, row in the block times T plus caption, ascending.
            kind: under which they are kept.
        Returns: (P,) on the device.
        Raises: CacheError: if the cache has the scores of other pairs.
        """
        if (kind, number) not in self.cache:
            image, total = self.image_trunk(number), len(self.owner)
            # By caption, so that few captions at a time are on the device.
            captions, order = (pairs % total).sort(stable=True)
            rows, scores = (pairs // total)[order], []
            for row, caption in zip(
                rows.split(self.pair_batch_size), captions.split(self.pair_batch_size)
            ):
                some, place = caption.unique(return_inverse=True)
                text = self.text_trunks_of(some).select(place)
                scores.append(self._autocast(self.model.pair_scores, image.select(row), text))
            scores = torch.cat(scores)[order.argsort()]
            self.cache.put(kind, number, dict(pairs=pairs, scores=scores))
        block = self.cache.get(kind, number)
        if not torch.equal(block['pairs'], pairs.cpu()):
            # Candidates follow from cached features; a device may round their products otherwise.
            raise CacheError(
                f'block {number} of {kind!r} in the cache has other candidates than those found '
                'now: resume on the device and with the candidates_from that the evaluation was '
                'started with, or delete the cache'
            )
        return block['scores'].to(self.device)

    # -- trunks and features --

    @cached_property
    def features(self) -> tuple[Tensor, Tensor]:
        """Features of all images (I, D) and captions (T, D), on the device of every rank."""
        self.encode_images()
        self.encode_texts(range(self.rank, len(self.text_blocks), self.world))
        images = self._gather('image', self.image_blocks, len(self.gallery.image_ids))
        return images, self._gather('text', self.text_blocks, len(self.gallery.texts))

    def _gather(self, kind: str, blocks: Sequence[Tensor], count: int) -> Tensor:
        width = self.model.cross_modal_image_pooler_itc.dense.out_features
        features = torch.zeros(count, width, device=self.device)
        for number in range(self.rank, len(blocks), self.world):
            own = self.cache.get(f'{kind}_features', number)['features']
            features[blocks[number].to(self.device)] = own.to(self.device)
        return self._sum(features)

    def encode_images(self) -> None:
        """Put the images of this rank into the cache, as far as they are not there."""
        todo = [number for number in self.my_blocks if not self._has('image', number)]
        if not todo:
            return
        loader = DataLoader(
            self.loader.dataset,
            batch_sampler=[self.image_blocks[number].tolist() for number in todo],
            num_workers=self.loader.num_workers,
            collate_fn=self.loader.collate_fn,
            pin_memory=self.loader.pin_memory,
            worker_init_fn=self.loader.worker_init_fn,
        )
        for number, batch in zip(self._progress('encoding', todo), loader):
            images = self.model.data_preprocessor.prepare_images(batch['inputs'])
            trunk = self._autocast(self.model.encode_images, images)
            self._put('image', number, trunk, self.model.image_features)

    def encode_texts(self, numbers: Sequence[int]) -> None:
        """Put blocks of captions into the cache, as far as they are not there."""
        for number in numbers:
            if not self._has('text', number):
                block = self.text_blocks[number].to(self.device)
                texts = TextBatch(self.tokens.input_ids[block], self.tokens.attention_mask[block])
                trunk = self._autocast(self.model.encode_texts, texts)
                self._put('text', number, trunk, self.model.text_features)

    def _has(self, kind: str, number: int) -> bool:
        return all((f'{kind}_{part}', number) in self.cache for part in self.parts)

    def _put(self, kind: str, number: int, trunk: Any, features: Callable) -> None:
        if 'features' in self.parts:
            found = self._autocast(features, trunk)
            self.cache.put(f'{kind}_features', number, dict(features=found))
        if 'trunk' in self.parts:
            # An image is read for its block alone, a caption for every block.
            self.cache.put(f'{kind}_trunk', number, trunk.state_dict(), seldom=kind == 'image')

    def image_trunk(self, number: int) -> ImageTrunk:
        """The trunk of a block of this rank's images, on the device."""
        self.encode_images()
        state = self.cache.get('image_trunk', number)
        return ImageTrunk.from_state_dict(state).to(self.device)

    def text_trunk(self, number: int, rows: Tensor | None = None) -> TextTrunk:
        """The trunk of a block of captions, or of some rows of it, on the device.

        Every rank encodes the captions that it needs: that is cheaper than to move their trunks.
        """
        self.encode_texts([number])
        trunk = TextTrunk.from_state_dict(self.cache.get('text_trunk', number))
        return (trunk if rows is None else trunk.select(rows)).to(self.device)

    def text_trunks_of(self, captions: Tensor) -> TextTrunk:
        """The trunk of some captions, (N,) int64, ascending; on the device."""
        captions = captions.cpu()
        number, row = captions // self.text_batch_size, captions % self.text_batch_size
        blocks = number.unique().tolist()
        return TextTrunk.cat([self.text_trunk(n, row[number == n]) for n in blocks])

    # -- helpers --

    def _own(self, number: int) -> Tensor:
        """(images of the block, T) bool: which captions are an image's own."""
        return self.image_blocks[number].to(self.device)[:, None] == self.owner

    def _sum(self, value: Tensor) -> Tensor:
        """The sum over the ranks; where only one has a value that is not 0, that value."""
        all_reduce(value)
        return value

    def _autocast(self, function: Callable, *args: Any) -> Any:
        with autocast(device_type=self.device.type, enabled=self.fp16):
            return function(*args)

    def _progress(self, what: str, numbers: Sequence[int]) -> Iterator[int]:
        """Go through blocks of images, with a line in the log every half minute."""
        start = last = time.monotonic()
        logger = MMLogger.get_current_instance()
        for done, number in enumerate(numbers):
            now = time.monotonic()
            if now - last > LOG_EVERY:
                last = now
                left = (now - start) / done * (len(numbers) - done)
                logger.info(
                    f'retrieval, {what}: {done} of {len(numbers)} blocks of images, '
                    f'{left / 60:.0f} minutes left'
                )
            yield number
        logger.info(
            f'retrieval, {what}: {len(numbers)} blocks of images in '
            f'{time.monotonic() - start:.1f} s'
        )


def _best(scores: Tensor, count: int) -> Tensor:
    """(R, count) int64: the highest of each row, the first of equal ones."""
    return scores.sort(dim=1, descending=True, stable=True).indices[:, :count]


def block_size(loader: DataLoader) -> int:
    """Images of a block: the loader's batch."""
    if loader.batch_size is None:
        raise ValueError('the retrieval loops need a dataloader with batch_size')
    return loader.batch_size
