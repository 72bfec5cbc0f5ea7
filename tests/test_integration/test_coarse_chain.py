"""Pre-training, retrieval fine-tuning from it, pre-training from a detector: by ``load_from``."""

import torch
from shapes_fixture import shapes_root  # noqa: F401

from fiber_mm import get_config
from fiber_mm.engine import load_checkpoint_file
from fiber_mm.registry import RUNNERS

from .conftest import narrow_coarse


def short(cfg, folder, **changes):
    """Two steps that leave the weights as they are."""
    cfg.work_dir = str(folder)
    cfg.train_cfg.update(max_iters=2, val_interval=2)
    cfg.optim_wrapper.optimizer.update(lr=0.0, weight_decay=0.0)
    cfg.default_hooks.checkpoint.update(interval=2)
    cfg.default_hooks.logger.interval = 1
    cfg.update(changes)
    return cfg


def test_retrieval_is_fine_tuned_from_pretraining(shapes_root, tmp_path):  # noqa: F811
    coarse = narrow_coarse(get_config('pretrain/fiber_nano_1xb32_1k_shapes'), shapes_root)
    RUNNERS.build(short(coarse, tmp_path / 'coarse')).train()
    checkpoint = tmp_path / 'coarse/iter_2.pth'

    cfg = narrow_coarse(get_config('retrieval/fiber_nano_1xb32_500_shapes'), shapes_root)
    cfg.val_cfg.rerank_topk = 4
    cfg = short(cfg, tmp_path / 'run', load_from=str(checkpoint), load_strict=False)
    runner = RUNNERS.build(cfg)
    runner.train()
    start = load_checkpoint_file(checkpoint)['state_dict']
    own = runner.model.state_dict()
    trained = [key for key in own if not key.startswith('data_preprocessor.')]
    assert all(torch.equal(own[key], start[key]) for key in trained if 'rank_output' not in key)
    left = {key.split('.')[0] for key in start.keys() - own.keys()}
    assert left == {'mlm_score', 'cross_modal_image_pooler_mlm'} or left == {'mlm_score'}, left
    scalars = next((tmp_path / 'run').glob('*/vis_data/scalars.json')).read_text()
    for name in ('loss_itc', 'loss_itm', 'itc/TR@1', 'itm_rerank/IR@1'):
        assert name in scalars


def test_pretraining_starts_from_a_detector(nano_cfg, checkpoint, shapes_root, tmp_path):  # noqa: F811
    coarse = narrow_coarse(get_config('pretrain/fiber_nano_1xb32_1k_shapes'), shapes_root)
    coarse.model.swin.depths = nano_cfg.model.backbone.swin.depths
    runner = RUNNERS.build(short(coarse, tmp_path / 'run', load_from=checkpoint))
    runner.train()
    start = load_checkpoint_file(checkpoint)['state_dict']
    used = 0
    for key, value in runner.model.state_dict().items():
        source = start.get(f'backbone.{key}')
        if source is not None and not key.endswith('bias_table'):
            assert torch.equal(value, source), key
            used += 1
    assert used > 60
