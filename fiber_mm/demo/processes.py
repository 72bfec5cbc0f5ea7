"""One run of the demo on several processes."""

from __future__ import annotations

import copy

from mmengine.config import Config

#: Loaders whose batches the processes share.
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def shared(cfg: Config, processes: int) -> Config:
    """The config for each of some processes, which together see the batches of the config.

    Args:
        cfg: For one process.
        processes: How many there are; with 1 the config stays as it is.

    Returns:
        A copy with a share of the batch, without further processes that load data.

    Raises:
        ValueError: if a batch cannot be shared evenly.
    """
    cfg = copy.deepcopy(cfg)
    if processes == 1:
        return cfg
    for name in LOADERS:
        loader = cfg.get(name)
        if loader is None:
            continue
        if loader.batch_size % processes:
            raise ValueError(
                f'{name}.batch_size {loader.batch_size} cannot be shared by {processes} processes; '
                'choose another number with --processes'
            )
        loader.batch_size //= processes
        loader.num_workers, loader.persistent_workers = 0, False
    cfg.launcher = 'pytorch'
    return cfg
