"""The runner: mmengine's, with safe and strict loading, atomic saving and launching on CPUs."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch.distributed
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import is_distributed
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn
from torch.utils.data import DataLoader

from fiber_mm.registry import RUNNERS

from .checkpoint import (
    ATOMIC_BACKEND,
    CheckpointError,
    check_weights,
    find_last_checkpoint,
    load_checkpoint_file,
    load_weights,
    revised,
    unwrapped,
    what_fits,
    with_state_dict,
)
from .config import check_config
from .config_text import FormattedOnce
from .device import leave_mps
from .queue import FiberQueueHook
from .stages import adapt_to_stage

_SEEDED_SAMPLERS = ('FiberInfiniteSampler', 'FiberEpochSampler')


@RUNNERS.register_module()
class FiberRunner(Runner):
    """Runs a config with ``runner_type = 'FiberRunner'``, from our tools and from mmdet's.

    - No checkpoint can run code, wherever it is named (``load_from``, ``resume``, ``init_cfg``).
    - Every key of a loaded checkpoint is accounted for: unknown or mis-shaped ones are errors;
      missing ones too, except where training starts from ``load_from`` (those start fresh). The
      top-level key ``load_strict = False`` takes what fits, as mmengine does.
    - ``load_from`` starts a training across stages: the encoder of a coarse checkpoint starts a
      detector and the other way round, position-bias tables of other windows are resized. The
      top-level key ``load_leave_out`` has regular expressions of keys that start fresh even so,
      such as ``('alpha_',)`` for the gates.
    - Checkpoints are written atomically.
    - Data sets behind our samplers are seeded per sample.
    - A queue of negatives is saved with the checkpoints, for resuming.
    - ``launcher='pytorch'`` works without a GPU (gloo).
    - On Apple machines everything runs on the CPU (:func:`~fiber_mm.engine.default_device`).
    - The config's text is formatted once, not for every checkpoint; a top-level key that looks like
      a mistyped one is an error.
    """

    def __init__(self, *args: Any, cfg: Config | None = None, **kwargs: Any) -> None:
        if isinstance(cfg, Config):
            check_config(cfg)
            cfg = FormattedOnce.of(cfg)
        left = leave_mps()
        super().__init__(*args, cfg=cfg, **kwargs)
        if left:
            self.logger.warning("running on the CPU: Apple's GPUs (mps) are not supported")
        self._trains = False

    def train(self) -> nn.Module:
        """Train; see mmengine."""
        self._trains = True
        queued = getattr(unwrapped(self.model), 'queue', None) is not None
        if queued and not any(isinstance(hook, FiberQueueHook) for hook in self.hooks):
            self.register_hook(FiberQueueHook())
        return super().train()

    # -- checkpoints --

    def load_or_resume(self) -> None:
        """Load or resume; ``last_checkpoint`` may have moved with its folder."""
        if self._has_loaded:
            return
        if self._resume and self._load_from is None:
            self._load_from = find_last_checkpoint(self.work_dir)
            if self._load_from is None:
                self.logger.info(f'{self.work_dir} has no checkpoint: starting from the beginning')
                return
        super().load_or_resume()

    def load_checkpoint(
        self,
        filename: str,
        map_location: str | Callable = 'cpu',
        strict: bool | None = None,
        revise_keys: list = [(r'^module\.', '')],  # noqa: B006  (mmengine's signature)
    ) -> dict:
        """Load weights, accounting for every key.

        Args:
            filename: local file (``.pth``, ``.safetensors``) or what mmengine knows otherwise.
            map_location: as in ``torch.load``.
            strict: True: all keys must fit; False: take what fits; None: as the class says.
            revise_keys: (pattern, replacement) pairs for the checkpoint's keys.

        Returns:
            The checkpoint.

        Raises:
            CheckpointError: unreadable, or keys that do not fit.
        """
        if '://' in str(filename):
            checkpoint = CheckpointLoader.load_checkpoint(filename, map_location)
        else:
            checkpoint = load_checkpoint_file(filename, map_location=map_location)
        if self._resume:
            self._check_resumable(checkpoint, filename)
        checkpoint = with_state_dict(checkpoint, str(filename))
        strict = self.cfg.get('load_strict') if strict is None else strict
        # A config that is only tested may have a data loader for training, too.
        starts_training = self._trains and not self._resume
        allow_missing = strict is False or (strict is None and starts_training)
        source = str(filename)
        if starts_training or (strict is False and not self._resume):
            leave_out = self.cfg.get('load_leave_out') or () if starts_training else ()
            checkpoint = self._adapted(checkpoint, revise_keys, leave_out)
        if strict is False:
            checkpoint = what_fits(self.model, checkpoint, source, revise_keys)
        else:
            check_weights(self.model, checkpoint, source, allow_missing, revise_keys)
        # Hooks may exchange entries of the state dict (EMA does), so they come before loading.
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        load_weights(self.model, checkpoint, source, allow_missing, revise_keys)
        self._has_loaded = True
        self.logger.info(f'Load checkpoint from {filename}')
        return checkpoint

    def _adapted(self, checkpoint: dict, revise_keys: list, leave_out: str | Sequence[str]) -> dict:
        state = revised(checkpoint['state_dict'], revise_keys)
        patterns = (leave_out,) if isinstance(leave_out, str) else leave_out
        adapted = adapt_to_stage(unwrapped(self.model), state, patterns)
        return {**checkpoint, 'state_dict': adapted}

    @staticmethod
    def _check_resumable(checkpoint: dict, filename: str) -> None:
        needed = ('meta', 'state_dict', 'optimizer', 'message_hub')
        absent = [key for key in needed if key not in checkpoint]
        if absent:
            raise CheckpointError(
                f'cannot resume from {filename}: it holds weights, but no {", ".join(absent)}. '
                'Resume needs a checkpoint that training wrote; to start from weights use '
                'load_from.'
            )

    def save_checkpoint(
        self,
        out_dir: str,
        filename: str,
        file_client_args: dict | None = None,
        *args: Any,
        backend_args: dict | None = None,
        **kwargs: Any,
    ) -> None:
        """Save a checkpoint; on local disks it appears whole or not at all. See mmengine."""
        if backend_args is None and file_client_args is None and '://' not in str(out_dir):
            backend_args = dict(backend=ATOMIC_BACKEND)
        super().save_checkpoint(
            out_dir, filename, file_client_args, *args, backend_args=backend_args, **kwargs
        )

    # -- data --

    @staticmethod
    def build_dataloader(
        dataloader: DataLoader | dict, seed: int | None = None, diff_rank_seed: bool = False
    ) -> DataLoader:
        """Build a loader; behind our samplers each sample gets its own seed. See mmengine."""
        if isinstance(dataloader, dict) and isinstance(dataloader.get('dataset'), dict):
            sampler = dataloader.get('sampler') or {}
            seeded = isinstance(sampler, dict) and sampler.get('type') in _SEEDED_SAMPLERS
            if seeded and dataloader['dataset'].get('type') != 'FiberSeededDataset':
                dataloader = dataloader.copy()
                dataloader['dataset'] = dict(
                    type='FiberSeededDataset', dataset=dataloader['dataset']
                )
        return Runner.build_dataloader(dataloader, seed=seed, diff_rank_seed=diff_rank_seed)

    # -- distributed --

    def setup_env(self, env_cfg: dict) -> None:
        """Set up processes; without a GPU torchrun's processes talk through gloo. See mmengine."""
        if self.launcher == 'pytorch' and not is_distributed() and get_device() == 'cpu':
            seconds = env_cfg.get('dist_cfg', {}).get('timeout')
            timeout = None if seconds is None else datetime.timedelta(seconds=seconds)
            torch.distributed.init_process_group(backend='gloo', timeout=timeout)
        super().setup_env(env_cfg)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Wrap the model for DDP; on CPU it takes no device ids. See mmengine."""
        if self.distributed and get_device() == 'cpu':
            os.environ.setdefault('LOCAL_RANK', '0')
            settings = dict(model_wrapper_cfg or {})
            if settings.get('type', 'MMDistributedDataParallel') == 'MMDistributedDataParallel':
                settings.update(type='MMDistributedDataParallel', device_ids=None)
                settings.setdefault('broadcast_buffers', False)
                settings.setdefault(
                    'find_unused_parameters', self.cfg.get('find_unused_parameters', False)
                )
                model_wrapper_cfg = settings
        return super().wrap_model(model_wrapper_cfg, model)
