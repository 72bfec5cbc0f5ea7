"""Training loops that continue exactly where a killed run stopped.

mmengine's loops restart an interrupted epoch from its beginning, leave the random numbers of the
model (dropout, drop path) to whatever was drawn before, and skip the validation that was due when
the checkpoint was written. These do not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from mmengine.dataset import InfiniteSampler
from mmengine.dist import all_gather, all_reduce, get_rank, get_world_size
from mmengine.hooks import EMAHook, ParamSchedulerHook
from mmengine.logging import MMLogger
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch.utils.data import DataLoader

from fiber_mm.registry import LOOPS

from .checkpoint import CheckpointError
from .data import FiberInfiniteSampler, samplers_of, start_at
from .randomness import mix_seed, seed_everything

# What checkpoints hold beside mmengine's own: the iteration of the last whole validation, the one
# at which the epoch began, the batches of an epoch, and the samples that all ranks have seen.
_VALIDATED, _EPOCH_BEGIN, _EPOCH_LENGTH = 'validated_iter', 'epoch_begin', 'epoch_length'
_SEEN = 'samples_seen'
# Keep the seeds of steps and validations apart from those of samples, which are hashed from the
# same run seed.
_STEP, _VALIDATION = -1, -2


class _ExactLoop:
    """What both loops share.

    Args:
        max_empty: skip the update of a batch in which more than this share of the images (or all)
            have no box; schedulers and EMA do not step then, but the iteration counts. The
            original does so with 0.1, on each rank for itself, which then is a batch ahead of the
            others; here the ranks skip together, if all of them would (else images without boxes
            are trained on, as background). None never skips. Not with gradient accumulation,
            whose updates would no longer be where a resumed run expects them.
    """

    def __init__(self, *args: Any, max_empty: float | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if max_empty is not None and not 0 <= max_empty < 1:
            raise ValueError(f'max_empty must be in [0, 1) or None, got {max_empty}')
        self.max_empty = max_empty
        self._steps = self._skipped = 0  # of this process
        self._warned = False

    # -- one step --

    @property
    def _accumulated(self) -> int:
        return getattr(self.runner.optim_wrapper, '_accumulative_counts', 1)

    def _check_accumulation(self) -> None:
        counts = self._accumulated
        if self.max_empty is not None and counts > 1:
            raise ValueError(
                f'train_cfg.max_empty={self.max_empty} skips batches, which cannot be combined '
                f'with optim_wrapper.accumulative_counts={counts}: set max_empty=None, or '
                'accumulative_counts=1'
            )

    def _check_ranks(self) -> None:
        """See that all ranks begin at one place.

        Raises:
            CheckpointError: if they do not.
        """
        places = [int(place) for place in all_gather(torch.tensor(self._iter))]
        if len(set(places)) > 1:
            raise CheckpointError(
                f'the ranks would go on at iterations {sorted(set(places))}: each resumes from the '
                f'checkpoints that it finds in {self.runner.work_dir}, which must be on a disk '
                'that all nodes share'
            )

    def _step(self, batch_idx: int, data_batch: Any) -> None:
        runner = self.runner
        seed_everything(mix_seed(runner.seed, _STEP, get_rank(), self._iter))
        runner.call_hook('before_train_iter', batch_idx=batch_idx, data_batch=data_batch)
        if self.max_empty is not None and _mostly_empty(data_batch, self.max_empty):
            self._note_skipped()
            for hook in runner.hooks:
                if not isinstance(hook, (EMAHook, ParamSchedulerHook)):
                    hook.after_train_iter(
                        runner, batch_idx=batch_idx, data_batch=data_batch, outputs=None
                    )
        else:
            outputs = runner.model.train_step(data_batch, optim_wrapper=runner.optim_wrapper)
            runner.call_hook(
                'after_train_iter', batch_idx=batch_idx, data_batch=data_batch, outputs=outputs
            )
        self._iter += 1
        self._steps += 1

    def _note_skipped(self) -> None:
        self._skipped += 1
        logger = self.runner.logger
        logger.info(f'iteration {self._iter}: too few images with boxes, no update')
        if self._steps >= 100 and 2 * self._skipped > self._steps and not self._warned:
            self._warned = True
            logger.warning(
                f'{self._skipped} of {self._steps} iterations had too few images with boxes and '
                f'changed nothing (train_cfg.max_empty={self.max_empty}). To train on images '
                'without boxes set max_empty=None, to leave them out set '
                'filter_cfg=dict(filter_empty_gt=True) in the data set.'
            )

    # -- data --

    def _batches(self, epoch: int, start: int) -> Iterator[Any]:
        """One pass over the loader, from a batch on."""
        for sampler in samplers_of(self.dataloader):
            # A resumed run without a seed of its own learns the seed only from the checkpoint.
            if hasattr(sampler, 'seed') and not self.runner._randomness_cfg.get('diff_rank_seed'):
                sampler.seed = self.runner.seed
            if hasattr(sampler, 'set_epoch'):
                sampler.set_epoch(epoch)
        if start_at(self.dataloader, start):
            yield from self.dataloader
            return
        self.runner.logger.warning(
            f'{type(self.dataloader.sampler).__name__} cannot start in the middle: loading and '
            f'discarding {start} batches. FiberInfiniteSampler and FiberEpochSampler can.'
        )
        for index, batch in enumerate(self.dataloader):
            if index >= start:
                yield batch

    # -- validation --

    def _validate(self) -> None:
        # Noted first: the checkpoint that is written inside, for a new best score, must know.
        self.runner.message_hub.update_info(_VALIDATED, self._iter)
        seed_everything(mix_seed(self.runner.seed, _VALIDATION, get_rank(), self._iter))
        self.runner.val_loop.run()

    def _validate_if_interrupted(self, due: bool) -> None:
        """Do the validation that was due when the checkpoint was written, if it never finished.

        Plateau schedules, early stopping and the best checkpoint depend on it.
        """
        done = self.runner.message_hub.runtime_info.get(_VALIDATED)
        if self._iter > 0 and due and done != self._iter:
            MMLogger.get_current_instance().info(
                f'validating at iteration {self._iter}, which the interrupted run had not'
            )
            self._validate()


@LOOPS.register_module()
class FiberIterTrainLoop(_ExactLoop, IterBasedTrainLoop):
    """Training by iterations, resumed exactly.

    Args:
        max_empty: see :class:`_ExactLoop`. The others are those of mmengine's
            ``IterBasedTrainLoop``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Older mmengine starts the workers here, before a resumed run knows where to start.
        self.dataloader_iterator = None

    def run(self) -> torch.nn.Module:
        """Train until ``max_iters``."""
        self._check_accumulation()
        self._check_ranks()
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')
        self._validate_if_interrupted(self._val_due())
        batches = self._endless()
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter(next(batches))
            self._decide_current_val_interval()
            if self._val_due():
                self._validate()
        self.runner.call_hook('after_train_epoch')
        self.runner.call_hook('after_train')
        return self.runner.model

    def run_iter(self, data_batch: Sequence[dict]) -> None:
        """One step."""
        info, batch = self.runner.message_hub, self._batch_of_all_ranks()
        # Before the step, at whose end a checkpoint may be written.
        info.update_info(_SEEN, info.runtime_info.get(_SEEN, self._iter * batch) + batch)
        self._step(self._iter, data_batch)

    def _batch_of_all_ranks(self) -> int:
        loader = self.dataloader
        size = loader.batch_size or getattr(loader.batch_sampler, 'batch_size', None) or 1
        return size * get_world_size()

    def _first_batch(self) -> int:
        """How many batches of the present size the run has seen, rounded down."""
        batch = self._batch_of_all_ranks()
        seen = self.runner.message_hub.runtime_info.get(_SEEN, self._iter * batch)
        if seen != self._iter * batch:
            self.runner.logger.warning(
                f'the run has seen {seen} samples in {self._iter} iterations; now an iteration '
                f'takes {batch}. The data go on at batch {seen // batch}. (Shards, whose order '
                'depends on the number of streams, go on at about that place.)'
            )
        return seen // batch

    def _val_due(self) -> bool:
        return (
            self.runner.val_loop is not None
            and self._iter >= self.val_begin
            and (self._iter % self.val_interval == 0 or self._iter == self._max_iters)
        )

    def _endless(self) -> Iterator[Any]:
        first = self._first_batch()
        if _is_endless(self.dataloader):
            yield from self._batches(0, first)
        epoch, start = divmod(first, len(self.dataloader))
        while True:
            yield from self._batches(epoch, start)
            epoch, start = epoch + 1, 0


@LOOPS.register_module()
class FiberEpochTrainLoop(_ExactLoop, EpochBasedTrainLoop):
    """Training by epochs, resumed exactly, also from the middle of an epoch.

    Gradients are accumulated within an epoch: its last update is made of the batches that are
    left (as in the original, which divides by ``accumulative_counts`` even so; here it is their
    mean). The number of batches of an epoch may change between epochs (other GPUs or batch size):
    then each epoch is whole, while schedules that count iterations (also those that were converted
    from epochs) keep the length they had; the log says so.

    Args:
        max_empty: see :class:`_ExactLoop`. The others are those of mmengine's
            ``EpochBasedTrainLoop``.
    """

    def run(self) -> torch.nn.Module:
        """Train until ``max_epochs``."""
        if _is_endless(self.dataloader):
            raise ValueError(
                'FiberEpochTrainLoop needs a sampler that ends, such as FiberEpochSampler; '
                f'got {type(samplers_of(self.dataloader)[-1]).__name__}'
            )
        self._check_accumulation()
        self._check_ranks()
        start = self._done_of_epoch()
        self._note_other_length(start)
        if self._iter % self._accumulated:
            self.runner.logger.info(
                'No gradient is lost, whatever mmengine warned of: updates end with an epoch, and '
                'checkpoints are written between updates.'
            )
        self.runner.call_hook('before_train')
        # In the middle of an epoch mmengine's check is of the epoch before, validated long ago.
        self._validate_if_interrupted(start == 0 and self._val_due())
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._decide_current_val_interval()
            if self._val_due():
                self._validate()
        self.runner.call_hook('after_train')
        return self.runner.model

    def run_epoch(self) -> None:
        """The rest of the current epoch."""
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        start, length = self._done_of_epoch(), len(self.dataloader)
        info = self.runner.message_hub.update_info
        info(_EPOCH_BEGIN, self._iter - start)
        info(_EPOCH_LENGTH, length)
        self.runner.optim_wrapper.initialize_count_status(self.runner.model, start, length)
        for index, data_batch in enumerate(self._batches(self._epoch, start), start):
            self.run_iter(index, data_batch)
        info(_EPOCH_BEGIN, self._iter)  # a checkpoint of the end belongs to the next epoch
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def _note_other_length(self, done: int) -> None:
        """Where the end is, if epochs had another length before."""
        length = len(self.dataloader)
        last = self._iter - done + (self._max_epochs - self._epoch) * length
        schedulers = self.runner.param_schedulers
        groups = schedulers.values() if isinstance(schedulers, dict) else [schedulers or []]
        by_iter = {type(s).__name__ for group in groups for s in group if not s.by_epoch}
        if last != self._max_iters and by_iter:
            self.runner.logger.warning(
                f'epochs have {length} batches now, so training ends after {last} iterations; '
                f'{", ".join(sorted(by_iter))} count iterations and keep the length that they had '
                'with the epochs of before'
            )
        self._max_iters = last

    def _done_of_epoch(self) -> int:
        """How many batches of the current epoch are done.

        Raises:
            CheckpointError: an interrupted epoch cannot go on with another number of batches.
        """
        if self._iter == 0:
            return 0
        length = len(self.dataloader)
        kept = self.runner.message_hub.runtime_info
        before = kept.get(_EPOCH_LENGTH, length)
        done = self._iter - kept.get(_EPOCH_BEGIN, self._epoch * length)
        if done == before:  # only its end (validation, the checkpoint of an epoch) is left to do
            return length
        if (done and before != length) or not 0 <= done <= length:
            raise CheckpointError(
                f'cannot go on in the middle of epoch {self._epoch + 1}: when the checkpoint was '
                f'written (iteration {self._iter}) an epoch had {before} batches, now it has '
                f'{length}. Resume with the same data, batch size and number of processes, or '
                'from a checkpoint of the end of an epoch.'
            )
        return done

    def run_iter(self, idx: int, data_batch: Sequence[dict]) -> None:
        """One step."""
        self._step(idx, data_batch)

    def _val_due(self) -> bool:
        return (
            self.runner.val_loop is not None
            and self._epoch >= self.val_begin
            and (self._epoch % self.val_interval == 0 or self._epoch == self._max_epochs)
        )


def _is_endless(dataloader: DataLoader) -> bool:
    endless = (FiberInfiniteSampler, InfiniteSampler)
    return any(
        isinstance(sampler, endless) or getattr(sampler, 'endless', False)
        for sampler in samplers_of(dataloader)
    )


def _mostly_empty(data_batch: Any, max_empty: float) -> bool:
    """Whether more than a share of the images, or all of them, have no box (on every rank)."""
    samples = data_batch['data_samples']
    empty = sum(len(sample.gt_instances) == 0 for sample in samples)
    skip = torch.tensor(float(empty == len(samples) or empty > max_empty * len(samples)))
    all_reduce(skip, op='min')
    return bool(skip)
