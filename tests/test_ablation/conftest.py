"""Campaigns at toy size."""

import pytest
import torch
from shapes_fixture import shapes_root  # noqa: F401

from fiber_mm.ablation import AblationSettings

PIXELS = 64
SWIN = {'embed_dim': 8, 'num_heads': [1, 2, 2, 4], 'window_size': 2}
ROBERTA = {'hidden_size': 16, 'num_heads': 2, 'intermediate_size': 24}
FINE_DATASETS = 'train_dataloader.dataset.datasets'


def sizes(prefix):
    """A narrow encoder."""
    return {f'{prefix}.swin.{key}': value for key, value in SWIN.items()} | {
        f'{prefix}.roberta.{key}': value for key, value in ROBERTA.items()
    }


def toy_settings(folder, data, **options):
    """Two steps a stage on a dozen images, a narrow model, one process."""
    coarse = {
        **sizes('model'),
        'model.joint_dim': 16,
        'train_dataloader.batch_size': 4,
        'train_dataloader.dataset.pipeline.1.size': PIXELS,
    }
    fine = {
        **sizes('model.backbone'),
        'model.neck.in_channels': [16, 32, 64],
        'model.neck.out_channels': 16,
        'model.bbox_head.in_channels': 16,
        'model.bbox_head.feat_channels': 16,
        'model.bbox_head.text_channels': 16,
        'model.bbox_head.num_groups': 4,
        'train_dataloader.batch_size': 2,
        f'{FINE_DATASETS}.0.dataset.pipeline.3.short': PIXELS,
        f'{FINE_DATASETS}.1.dataset.pipeline.3.short': PIXELS,
        f'{FINE_DATASETS}.2.indices': 20,
        f'{FINE_DATASETS}.2.pipeline.3.short': PIXELS,
        f'{FINE_DATASETS}.3.pipeline.3.short': PIXELS,
        'test_dataloader.dataset.pipeline.1.short': PIXELS,
        'test_dataloader.num_workers': 0,
        'test_dataloader.persistent_workers': False,
    }
    both = {
        'shapes': dict(splits=dict(train=12, val=8), seed=0, image_size=128),
        'train_dataloader.num_workers': 0,
        'train_dataloader.persistent_workers': False,
    }
    settings = dict(
        coarse_steps=2,
        fine_steps=2,
        work_dir=folder / 'ablations',
        data=data,
        processes=1,
        cfg_options=both,
        coarse_options=coarse,
        fine_options=fine,
        report=folder / 'docs' / 'results_shapes.md',
    )
    return AblationSettings(**{**settings, **options})


@pytest.fixture
def toy(tmp_path, shapes_root):  # noqa: F811
    """Makes settings of a toy campaign."""
    return lambda **options: toy_settings(tmp_path, shapes_root, **options)


@pytest.fixture
def one_thread():
    """As many as in ``toy_training.in_a_process``: sums in another order end in other bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
