"""The text-free backbone in a detector of mmdet: one training step, one prediction."""

import json
from pathlib import Path

import pytest
import torch
from mmdet.models import RetinaNet
from mmengine.dataset import pseudo_collate
from mmengine.optim import OptimWrapper
from mmengine.registry import init_default_scope
from shapes_fixture import shapes_root  # noqa: F401

from fiber_mm import get_config
from fiber_mm.registry import DATASETS, MODELS
from fiber_mm.shapes.vocabulary import CATEGORIES

from .conftest import on_shapes

CONFIG = 'detection/retinanet_fiber-nano_fpn_shapes'


@pytest.fixture
def cfg(shapes_root):  # noqa: F811
    init_default_scope('mmdet')
    return on_shapes(get_config(CONFIG), shapes_root)


def test_trains_and_predicts(cfg):
    data = DATASETS.build(cfg.train_dataloader.dataset)
    assert data.metainfo['classes'] == CATEGORIES
    model = MODELS.build(cfg.model).train()
    assert type(model) is RetinaNet
    model.init_weights()
    batch = pseudo_collate([data[0], data[1]])
    optim = OptimWrapper(
        torch.optim.AdamW(model.parameters(), lr=1e-4), clip_grad=dict(max_norm=1.0)
    )
    watched = 'backbone.encoder.image.layers.0.blocks.0.attn.qkv.weight'
    before = model.get_parameter(watched).detach().clone()
    first = model.train_step(batch, optim)
    assert torch.isfinite(first['loss'])
    assert not torch.equal(before, model.get_parameter(watched))
    for _ in range(4):
        last = model.train_step(batch, optim)
    assert last['loss'] < first['loss']

    model.bbox_head.test_cfg.score_thr = 0.0
    unseen = DATASETS.build(cfg.test_dataloader.dataset)
    with torch.no_grad():
        (result,) = model.eval().test_step(pseudo_collate([unseen[0]]))
    found = result.pred_instances
    assert 0 < len(found) <= 100
    assert found.labels.max() < 48
    assert found.bboxes.isfinite().all()


def test_labels_are_those_of_the_annotation_file(cfg):
    """mmdet pairs names and ids by the file's order, so the config must list them in it."""
    data = DATASETS.build(cfg.test_dataloader.dataset)
    content = json.loads(Path(data.ann_file).read_text())
    names = {category['id']: category['name'] for category in content['categories']}
    assert [names[i] for i in data.cat_ids] == list(data.metainfo['classes'])


def test_takes_the_image_side_of_a_grounder(cfg, model, tmp_path):
    """Weights of a grounder's backbone go into the plain one by ``init_cfg``."""
    path = tmp_path / 'grounder.pth'
    torch.save(dict(state_dict=model.state_dict()), path)
    cfg.model.backbone.swin = dict(
        embed_dim=8, depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 4), window_size=4
    )
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(path), prefix='backbone.')
    cfg.model.neck.in_channels = [16, 32, 64]
    plain = MODELS.build(cfg.model)
    plain.init_weights()
    wanted = model.backbone.state_dict()
    for key, value in plain.backbone.state_dict().items():
        assert torch.equal(value, wanted[key]), key
