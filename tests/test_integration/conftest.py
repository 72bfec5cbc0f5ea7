"""Shapes, and the nano model's config on them at toy size."""

import copy

import pytest
import torch
from config_nodes import nodes
from shapes_fixture import shapes_root  # noqa: F401

from fiber_mm import get_config

CONFIG = 'grounding/fiber_nano_1xb8_demo_shapes'


def on_shapes(cfg, root):
    """Data of ``root`` at 64 pixels, no worker processes."""
    for node in nodes(cfg._cfg_dict):
        kind = str(node.get('type', ''))
        if 'data_root' in node:
            node['data_root'] = f'{root}/'
        if 'tokenizer' in node:
            node['tokenizer'] = f'{root}/tokenizer'
        if 'Metric' in kind:
            node['ann_file'] = f'{root}/annotations/instances_val.json'
        if kind == 'FiberResize':
            node['short'] = 64
        if kind == 'Resize':
            node['scale'] = (64, 64)
        if 'num_workers' in node:
            node.update(num_workers=0, persistent_workers=False, batch_size=2)
        node.pop('indices', None)
    return cfg


@pytest.fixture
def one_thread():
    """As many as in ``toy.in_a_process``: sums in another order end in other bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def narrow_coarse(cfg, root):
    """A nano config of the coarse stage, narrower, at 64 pixels, on a few Shapes images."""
    from transformers import AutoTokenizer

    for node in nodes(cfg._cfg_dict):
        if 'data_root' in node:
            node['data_root'] = f'{root}/'
        if 'tokenizer' in node:
            node['tokenizer'] = f'{root}/tokenizer'
        if node.get('type') == 'FiberSquareResize':
            node['size'] = 64
        if node.get('type') == 'FiberRetrievalRecall':
            node['topk'] = (1, 5)
        if 'num_workers' in node:
            node.update(num_workers=0, persistent_workers=False)
        if node.get('per') == 'image':
            node['indices'] = 5
    cfg.model.swin.update(embed_dim=8, num_heads=(1, 2, 2, 4), window_size=2)
    size = len(AutoTokenizer.from_pretrained(f'{root}/tokenizer'))
    cfg.model.roberta.update(vocab_size=size, hidden_size=16, num_heads=2, intermediate_size=24)
    cfg.train_dataloader.batch_size = 4
    return cfg


@pytest.fixture
def nano_cfg(shapes_root):  # noqa: F811
    """The nano config, narrower, with any score let through."""
    from transformers import AutoTokenizer

    cfg = on_shapes(get_config(CONFIG), shapes_root)
    cfg.model.backbone.swin.update(
        embed_dim=8, depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 4), window_size=4
    )
    size = len(AutoTokenizer.from_pretrained(f'{shapes_root}/tokenizer'))
    cfg.model.backbone.roberta.update(
        vocab_size=size, hidden_size=16, num_layers=3, num_heads=2, intermediate_size=24
    )
    cfg.model.backbone.fusion.num_blocks = 2
    cfg.model.neck.update(in_channels=[16, 32, 64], out_channels=16)
    cfg.model.bbox_head.update(in_channels=16, feat_channels=16, text_channels=16, num_groups=4)
    cfg.model.test_cfg.update(score_thr=0.0, max_per_img=20)
    return cfg


@pytest.fixture
def model(nano_cfg):
    """The model of that config, every parameter drawn at random."""
    from mmengine.registry import init_default_scope
    from test_models.test_detectors.toy import shake

    from fiber_mm.registry import MODELS

    init_default_scope('mmdet')
    built = MODELS.build(copy.deepcopy(nano_cfg.model))
    shake(built)
    return built.eval()


@pytest.fixture
def checkpoint(model, tmp_path):
    """Its weights as a file."""
    path = tmp_path / 'nano.pth'
    meta = dict(dataset_meta=dict(classes=('red circle', 'blue square')))
    torch.save(dict(meta=meta, state_dict=model.state_dict()), path)
    return str(path)


@pytest.fixture
def photo(shapes_root):  # noqa: F811
    """Path of an image."""
    return str(sorted((shapes_root / 'val').glob('*.jpg'))[0])
