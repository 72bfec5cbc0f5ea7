"""Runner, loops, samplers, checkpoints, optimiser groups, retrieval evaluation."""

from .block_cache import BlockCache, CacheError
from .checkpoint import (
    AtomicLocalBackend,
    CheckpointError,
    find_last_checkpoint,
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
    FiberSameImageBatchSampler,
    FiberSeededDataset,
)
from .device import default_device, leave_mps
from .hooks import FiberCheckpointHook, FiberEarlyStoppingHook
from .launch import available_cores, launch
from .loops import FiberEpochTrainLoop, FiberIterTrainLoop
from .optim import FiberBf16OptimWrapper, FiberOptimWrapperConstructor
from .queue import FiberQueueHook
from .retrieval_loops import FiberRetrievalTestLoop, FiberRetrievalValLoop
from .runner import FiberRunner
from .visualization_hook import FiberVisualizationHook

__all__ = [
    'AtomicLocalBackend',
    'BlockCache',
    'CacheError',
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
    'FiberRetrievalTestLoop',
    'FiberRetrievalValLoop',
    'FiberRunner',
    'FiberSameImageBatchSampler',
    'FiberSeededDataset',
    'FiberVisualizationHook',
    'available_cores',
    'check_config',
    'default_device',
    'explain_build_error',
    'find_last_checkpoint',
    'launch',
    'leave_mps',
    'load_checkpoint_file',
    'load_weights',
    'tune_cpu_allocator',
    'write_atomic',
]
