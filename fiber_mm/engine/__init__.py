"""Runner, loops, samplers, checkpoints and optimiser groups."""

from .checkpoint import (
    AtomicLocalBackend,
    CheckpointError,
    load_checkpoint_file,
    load_weights,
    write_atomic,
)
from .config import ConfigError, check_config, explain_build_error
from .cpu import tune_cpu_allocator
from .data import (
    FiberAspectRatioBatchSampler,
    FiberEpochSampler,
    FiberInfiniteSampler,
    FiberSeededDataset,
)
from .hooks import FiberCheckpointHook, FiberEarlyStoppingHook
from .launch import available_cores, launch
from .loops import FiberEpochTrainLoop, FiberIterTrainLoop
from .optim import FiberBf16OptimWrapper, FiberOptimWrapperConstructor
from .queue import FiberQueueHook
from .runner import FiberRunner

__all__ = [
    'AtomicLocalBackend',
    'CheckpointError',
    'ConfigError',
    'FiberAspectRatioBatchSampler',
    'FiberBf16OptimWrapper',
    'FiberCheckpointHook',
    'FiberEarlyStoppingHook',
    'FiberEpochSampler',
    'FiberEpochTrainLoop',
    'FiberInfiniteSampler',
    'FiberIterTrainLoop',
    'FiberOptimWrapperConstructor',
    'FiberQueueHook',
    'FiberRunner',
    'FiberSeededDataset',
    'available_cores',
    'check_config',
    'explain_build_error',
    'launch',
    'load_checkpoint_file',
    'load_weights',
    'tune_cpu_allocator',
    'write_atomic',
]
