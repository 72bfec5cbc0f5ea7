"""Models; importing this package registers them."""

from . import (
    backbones,
    data_preprocessors,
    dense_heads,
    detectors,
    losses,
    multimodal,
    necks,
    test_time_augs,
    utils,
)

__all__ = [
    'backbones',
    'data_preprocessors',
    'dense_heads',
    'detectors',
    'losses',
    'multimodal',
    'necks',
    'test_time_augs',
    'utils',
]
