"""Hooks that mmengine has in a form that a killed run does not survive."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook, EarlyStoppingHook
from mmengine.optim import OptimWrapper

from fiber_mm.registry import HOOKS

from .checkpoint import ATOMIC_BACKEND, LAST_CHECKPOINT, remove_stale_files, write_atomic


@HOOKS.register_module()
class FiberCheckpointHook(CheckpointHook):
    """mmengine's checkpoint hook, such that a kill at any moment leaves a usable checkpoint.

    mmengine writes in place, and deletes the oldest checkpoint before it writes the new one: with
    ``max_keep_ckpts=1`` a kill while writing leaves nothing. Here a file appears only when it is
    complete, then ``last_checkpoint`` names it, then older ones are deleted.

    Gradients are in no checkpoint. So one that is due between two updates (``interval`` is no
    multiple of ``accumulative_counts``, or a validation there found a new best) is written after
    the next update; the file of the best weights is written at once.

    Args:
        **kwargs: those of mmengine's ``CheckpointHook``. Without ``backend_args`` files are local.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.args:  # mmengine hands on what it does not know, and fails when it saves
            raise TypeError(
                f'{type(self).__name__}.__init__() got an unexpected keyword argument '
                f'{next(iter(self.args))!r}'
            )
        if self.backend_args is None and self.file_client_args is None:
            self.backend_args = dict(backend=ATOMIC_BACKEND)
        self._postponed = False

    def every_n_train_iters(self, runner: Any, n: int, start: int = 0) -> bool:
        """Whether to save after this iteration."""
        due = super().every_n_train_iters(runner, n, start) or self._postponed
        self._postponed = due and _in_the_middle_of_an_update(runner.optim_wrapper)
        return due and not self._postponed

    def before_train(self, runner: Any) -> None:
        """Prepare the folder, and clear what a killed run left half-written there."""
        super().before_train(runner)
        if is_main_process():
            for path in [*remove_stale_files(self.out_dir), *remove_stale_files(runner.work_dir)]:
                runner.logger.info(f'removed {path}, which a killed run left incomplete')

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict) -> None:
        if _in_the_middle_of_an_update(runner.optim_wrapper):
            self._postponed = True
            return
        outdated = []
        if self.max_keep_ckpts > 0 and step not in self.keep_ckpt_ids:
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                outdated.append(self.keep_ckpt_ids.popleft())
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))

        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if not is_main_process():
            return
        write_atomic(os.path.join(runner.work_dir, LAST_CHECKPOINT), str(self.last_ckpt).encode())
        for old in outdated:
            path = self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(old))
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)

    def _save_best_checkpoint(self, runner: Any, metrics: dict) -> None:
        if not self.save_best:
            return  # a validation without training has nowhere to save, either
        with self._remove_afterwards():
            super()._save_best_checkpoint(runner, metrics)

    @contextlib.contextmanager
    def _remove_afterwards(self) -> Iterator[None]:
        """Put off deleting files until what replaces them is written."""
        remove, outdated = self.file_backend.remove, []
        self.file_backend.remove = outdated.append
        try:
            yield
        finally:
            self.file_backend.remove = remove
        for path in outdated:
            # The new best may have the old one's name.
            if path not in (self._best_paths()):
                remove(path)

    def _best_paths(self) -> list[str]:
        many = getattr(self, 'best_ckpt_path_dict', {}).values()
        return [str(path) for path in (getattr(self, 'best_ckpt_path', None), *many) if path]


def _in_the_middle_of_an_update(optim_wrapper: Any) -> bool:
    return isinstance(optim_wrapper, OptimWrapper) and not optim_wrapper.should_update()


@HOOKS.register_module()
class FiberEarlyStoppingHook(EarlyStoppingHook):
    """mmengine's early stopping, which keeps counting over a resume.

    Args:
        **kwargs: those of mmengine's ``EarlyStoppingHook``.
    """

    # Before the checkpoint hook, which may write a checkpoint after a validation.
    priority = 'LOW'

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Save the count."""
        checkpoint['early_stopping'] = dict(
            wait_count=self.wait_count, best_score=float(self.best_score)
        )

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Take up the count of the interrupted run."""
        if runner._resume and 'early_stopping' in checkpoint:
            self.wait_count = checkpoint['early_stopping']['wait_count']
            self.best_score = checkpoint['early_stopping']['best_score']
