"""Validation and test loops of image-text retrieval."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from mmengine.dist import get_dist_info
from mmengine.model import is_model_wrapper
from mmengine.runner import TestLoop, ValLoop
from mmpretrain.evaluation import RetrievalRecall
from torch import Tensor
from torch.utils.data import DataLoader

from fiber_mm.registry import LOOPS

from .block_cache import BlockCache, digest, model_digest
from .gallery import Gallery
from .retrieval import PROTOCOLS, RetrievalEvaluation, block_size
from .retrieval_features import load_features, save_features

if TYPE_CHECKING:
    from fiber_mm.models.multimodal import FiberMultimodal


class RetrievalLoop:
    """What validation and testing of image-text retrieval share.

    The model is a :class:`FiberMultimodal`: ``FiberRetrieval``, or ``FiberPretrain`` while it is
    trained.

    Args:
        runner, dataloader, evaluator, fp16: as in mmengine's loops. One sample is an image with
            all its captions (``per='image'``); the evaluator is ``FiberRetrievalRecall``.
        protocols: Some of ``'itc'``: cosine of the dual encoder. ``'itm'``: every pair is matched,
            as the original evaluates matching: I x T passes of the fused blocks. ``'itm_rerank'``:
            the first ``rerank_topk`` by ``itc`` are ordered anew by matching, the rest stays
            behind them.
        rerank_topk: Candidates of each image and of each caption that ``itm_rerank`` orders.
        text_batch_size: Captions encoded at once.
        pair_batch_size: Pairs fused at once.
        memory_budget: Bytes of trunks, features and scores that a process holds in memory; the rest
            goes to disk.
        spill_dir: Where a temporary folder is made for that; None: in the run's log folder, where
            a killed run leaves it behind.
        cache_dir: Folder that keeps all of it: a killed evaluation goes on where it was. Each rank
            has a folder of its own there. One of another model or of other data is refused.
        features_out: File that gets the dual encoder's features of all images and captions.
        candidates_from: Such a file, written by another model for the same data: ``itm_rerank``
            orders the best by its cosines, and the model needs no head of contrast for it. The
            released weights for contrast and for matching are two checkpoints.
    Raises:
        ValueError: for settings that do not go together or are out of range.
        TypeError: for a model or an evaluator of another kind.
    """

    def __init__(
        self,
        runner: Any,
        dataloader: DataLoader | dict,
        evaluator: Any,
        fp16: bool = False,
        protocols: Sequence[str] | str = ('itc',),
        rerank_topk: int = 128,
        text_batch_size: int = 64,
        pair_batch_size: int = 64,
        memory_budget: int = 8 * 2**30,
        spill_dir: str | None = None,
        cache_dir: str | None = None,
        features_out: str | None = None,
        candidates_from: str | None = None,
    ) -> None:
        super().__init__(runner, dataloader, evaluator, fp16)
        self.protocols = (protocols,) if isinstance(protocols, str) else tuple(protocols)
        unknown = set(self.protocols) - set(PROTOCOLS)
        if unknown or not self.protocols:
            raise ValueError(f'protocols are some of {tuple(PROTOCOLS)}, got {protocols!r}')
        numbers = dict(
            rerank_topk=rerank_topk,
            text_batch_size=text_batch_size,
            pair_batch_size=pair_batch_size,
        )
        wrong = {name: value for name, value in numbers.items() if value < 1}
        if wrong:
            raise ValueError(f'these must be at least 1: {wrong}')
        self.rerank_topk = rerank_topk
        self.text_batch_size, self.pair_batch_size = text_batch_size, pair_batch_size
        self.memory_budget, self.spill_dir, self.cache_dir = memory_budget, spill_dir, cache_dir
        self.features_out, self.candidates_from = features_out, candidates_from
        if candidates_from and 'itm_rerank' not in self.protocols:
            raise ValueError(
                "candidates_from is for the protocol 'itm_rerank', which is not among "
                f'{self.protocols}'
            )
        if features_out and 'features' not in self._parts():
            raise ValueError(
                f'features_out needs a protocol that has features of the model: {self.protocols} '
                "has none, add 'itc'"
            )
        self._model()
        if any(isinstance(metric, RetrievalRecall) for metric in self.evaluator.metrics):
            raise TypeError(
                "mmpretrain's RetrievalRecall wants the scores of all candidates with every query: "
                'use FiberRetrievalRecall, which works on the ranks that this loop finds'
            )

    def _parts(self) -> set[str]:
        """What is needed of every encoded image and caption, ``features``, ``trunk``."""
        return {part for protocol in self.protocols for part in self._parts_of(protocol)}

    def _parts_of(self, protocol: str) -> tuple[str, ...]:
        foreign = protocol == 'itm_rerank' and self.candidates_from
        return tuple(p for p in PROTOCOLS[protocol] if not (foreign and p == 'features'))

    def _model(self) -> FiberMultimodal:
        """The model without wrappers.

        Raises:
            TypeError: for a model or preprocessor of another kind.
            ValueError: if it lacks what a protocol needs.
        """
        # Not at the top: the models import parts of this package.
        from fiber_mm.models.multimodal import FiberMultimodal

        model = self.runner.model
        while is_model_wrapper(model):
            model = model.module
        if not isinstance(model, FiberMultimodal):
            raise TypeError(
                f'{type(self).__name__} evaluates FiberRetrieval, FiberPretrain and other '
                f'FiberMultimodal, got {type(model).__name__}'
            )
        if not hasattr(model.data_preprocessor, 'prepare_texts'):
            raise TypeError(
                f'{type(model).__name__} is evaluated with FiberImageTextPreprocessor as '
                f'data_preprocessor, got {type(model.data_preprocessor).__name__}'
            )
        for protocol in self.protocols:
            parts = self._parts_of(protocol)
            for part, name, there in (
                ('features', 'contrast', model.has_contrast),
                ('trunk', 'matching', model.has_matching),
            ):
                if part in parts and not there:
                    raise ValueError(
                        f'the protocol {protocol!r} needs the heads of {name}, which the model '
                        f'has not (losses={getattr(model, "losses", None)}): choose other '
                        'protocols or losses, or switch validation off: val_cfg=None '
                        'val_dataloader=None val_evaluator=None'
                    )
        return model

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Ranks by every protocol, and what the evaluator makes of them."""
        model = self._model()
        topk = [k for metric in self.evaluator.metrics for k in getattr(metric, 'topk', ())]
        gallery = Gallery.of_dataset(self.dataloader.dataset, max(topk, default=1))
        rank, world = get_dist_info()
        self.runner.logger.info(
            f'retrieval: {len(gallery.image_ids)} images, {len(gallery.texts)} captions, '
            f'protocols {", ".join(self.protocols)}'
        )
        queries = 0
        candidates = None
        if self.candidates_from:
            candidates = load_features(self.candidates_from, gallery)
        tokens = model.data_preprocessor.prepare_texts(gallery.texts)
        with self._cache(model, gallery, tokens.input_ids) as cache:
            work = RetrievalEvaluation(
                model, self.dataloader, gallery, cache, sorted(self._parts()),
                self.text_batch_size, self.pair_batch_size, self.fp16, candidates, tokens,
            )  # fmt: skip
            if self.features_out:
                features = work.features
                if rank == 0:
                    save_features(self.features_out, *features, gallery)
            for protocol in self.protocols:
                ranks = work.ranks(protocol, self.rerank_topk)
                for direction, values, ids in zip(
                    ('TR', 'IR'), ranks, (gallery.image_ids, gallery.text_ids)
                ):
                    samples = [
                        dict(protocol=protocol, direction=direction, rank=value, query_id=id_)
                        for value, id_ in list(zip(values.tolist(), ids))[rank::world]
                    ]
                    self.evaluator.process(samples, None)
                    queries += len(ids)
            if cache.spilled:
                self.runner.logger.info(
                    f'retrieval: {cache.held / 2**30:.2f} GiB were kept in memory, '
                    f'{cache.spilled / 2**30:.2f} GiB on disk alone (memory_budget)'
                )
        return self.evaluator.evaluate(queries)

    def _cache(self, model: FiberMultimodal, gallery: Gallery, ids: Tensor) -> BlockCache:
        if self.cache_dir is None:
            spill_dir = self.spill_dir or self.runner.log_dir
            return BlockCache(self.memory_budget, spill_dir=spill_dir)
        rank, world = get_dist_info()
        dataset, preprocessor = self.dataloader.dataset, model.data_preprocessor
        identity = dict(
            model=model_digest(model, model.encoder.cfg, model.rank_by),
            data=digest(
                gallery.image_ids, gallery.text_ids, gallery.image_of_text, ids,
                [_file_state(path) for path in gallery.paths],
            ),
            preprocessing=digest(
                # The pipeline by its parts' settings, and by what it makes of an image.
                re.sub(r' at 0x\w+', '', repr(getattr(dataset, 'pipeline', None))),
                dataset[0]['inputs'], preprocessor.to_rgb,
                getattr(preprocessor, 'mean', None), getattr(preprocessor, 'std', None),
            ),
            settings=digest(
                block_size(self.dataloader), self.text_batch_size, self.pair_batch_size, self.fp16
            ),
        )  # fmt: skip
        folder = Path(self.cache_dir) / f'rank_{rank}_of_{world}'
        return BlockCache(self.memory_budget, folder, identity)


def _file_state(path: str) -> tuple:
    """Path, size and time of a file; the path alone where it is none."""
    if not os.path.isfile(path):
        return (path,)
    state = os.stat(path)
    return path, state.st_size, state.st_mtime_ns


@LOOPS.register_module()
class FiberRetrievalTestLoop(RetrievalLoop, TestLoop):
    """Test of image-text retrieval; the arguments are those of :class:`RetrievalLoop`."""

    def run(self) -> Mapping[str, float]:
        """Encode, rank, and evaluate."""
        self.runner.call_hook('before_test')
        self.runner.call_hook('before_test_epoch')
        self.runner.model.eval()
        metrics = self.evaluate()
        self.runner.call_hook('after_test_epoch', metrics=metrics)
        self.runner.call_hook('after_test')
        return metrics


@LOOPS.register_module()
class FiberRetrievalValLoop(RetrievalLoop, ValLoop):
    """Validation of image-text retrieval; the arguments are those of :class:`RetrievalLoop`.

    Raises: ValueError: for a ``cache_dir``, since the weights change between validations.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.cache_dir is not None:
            raise ValueError(
                'cache_dir is for tests (FiberRetrievalTestLoop): between validations the weights '
                'change'
            )

    def run(self) -> Mapping[str, float]:
        """Encode, rank, and evaluate."""
        self.runner.call_hook('before_val')
        self.runner.call_hook('before_val_epoch')
        self.runner.model.eval()
        metrics = self.evaluate()
        self.runner.call_hook('after_val_epoch', metrics=metrics)
        self.runner.call_hook('after_val')
        return metrics
