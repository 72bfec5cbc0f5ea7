"""Every config parses and builds without network; the released ones take a training step."""

import copy
import re

import pytest
import torch
from config_nodes import nodes
from mmdet.apis import DetInferencer
from mmengine.config import Config, ConfigDict
from mmengine.dataset import Compose
from mmengine.registry import RUNNERS, init_default_scope
from mmengine.runner import Runner
from shapes_fixture import shapes_root  # noqa: F401
from test_models.test_test_time_augs.test_det_tta import Detector
from tool_loader import load_tool

from fiber_mm.config_lookup import config_names, get_config
from fiber_mm.datasets.arrow import arrow_tables
from fiber_mm.datasets.writers import ArrowWriter
from fiber_mm.engine import ConfigError, check_config
from fiber_mm.models.backbones.fiber_backbone import build_encoder
from fiber_mm.models.test_time_augs import FiberDetTTAModel
from fiber_mm.registry import MODELS

CONFIGS = config_names()
#: Annotation files of Shapes that stand for those of the benchmarks, by data set class.
SHAPES_FILES = {
    'FiberCocoDataset': 'annotations/instances_{}.json',
    'FiberLVISDataset': 'annotations/lvis_v1_{}.json',
    'FiberODVGDataset': 'annotations/{}_od.jsonl',
}


def trains(name: str) -> bool:
    return get_config(name).get('train_cfg') is not None


def shapes_file(data: dict) -> str:
    if data['type'] != 'FiberMDETRDataset':
        return SHAPES_FILES[data['type']]
    if 'refcoco' in data['ann_file']:
        return 'annotations/finetune_refcoco_{}.json'
    return 'annotations/final_flickr_separateGT_{}.json'


def on_shapes(cfg: Config, root, split: str, vocab_size: int) -> Config:
    """The config with Shapes in the place of its data, small images, small vocabulary."""
    cfg = copy.deepcopy(cfg)
    for node in nodes(cfg._cfg_dict):
        if 'tokenizer' in node:
            node['tokenizer'] = str(root / 'tokenizer')
        kind = str(node.get('type', ''))
        if kind == 'FiberResize':
            node.update(short=96, max_long=96)
        if kind == 'FiberMDETRDataset' or kind in SHAPES_FILES:
            node.update(data_root=str(root), ann_file=shapes_file(node).format(split))
            # The names of LVIS begin with the folder of the split.
            lvis = kind == 'FiberLVISDataset'
            node['data_prefix'] = {'img': '' if lvis else f'{split}/'}
        if kind == 'FiberODVGDataset':
            node['label_map_file'] = 'annotations/label_map.json'
        if 'num_workers' in node:
            node.update(num_workers=0, persistent_workers=False)
        if 'Metric' in kind and 'ann_file' in node:
            name = 'lvis_v1' if 'LVIS' in kind else 'instances'
            node['ann_file'] = str(root / f'annotations/{name}_{split}.json')
    cfg.model.backbone.setdefault('roberta', ConfigDict())
    cfg.model.backbone.roberta.vocab_size = vocab_size
    return cfg


def vocabulary(root) -> int:
    from transformers import AutoTokenizer

    return len(AutoTokenizer.from_pretrained(str(root / 'tokenizer')))


@pytest.mark.parametrize('name', CONFIGS)
def test_parses_and_has_no_mistyped_key(name):
    cfg = get_config(name)
    check_config(cfg._cfg_dict)
    assert cfg.default_scope in ('mmdet', 'mmpretrain')
    assert 'fiber_mm' in cfg.custom_imports.imports


@pytest.mark.parametrize('name', CONFIGS)
def test_model_builds_without_network(name):
    cfg = get_config(name)
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):  # names and shapes, no memory
        model = MODELS.build(cfg.model)
    assert sum(p.numel() for p in model.parameters()) > 1e5
    if name.startswith('grounding/fiber_swin-b'):
        holder = model if 'heatmap' in name else model.backbone
        encoder = holder.encoder.cfg
        assert encoder.swin.depths == (2, 2, 18, 2)
        assert encoder.roberta.num_layers == 12
        assert encoder.fusion.num_blocks == 6
        # Families: v3 before and for referring expressions, v2 for all else; coarse as v3.
        v3 = any(part in name for part in ('refcoco', 'refexp', 'heatmap'))
        assert encoder.fusion.norm_i2t_query == v3


def test_mistyped_keys_are_named():
    cfg = get_config('fiber_swin-b_zeroshot_coco')
    cfg._cfg_dict['test_evaluatr'] = {}
    del cfg._cfg_dict['test_evaluator']
    with pytest.raises(ConfigError, match='test_evaluatr.*test_evaluator'):
        check_config(cfg._cfg_dict)
    cfg = get_config('fiber_swin-b_zeroshot_coco')
    cfg.model.backbone.swin.windw_size = 12
    init_default_scope('mmdet')
    with torch.device('meta'), pytest.raises(TypeError, match='windw_size.*window_size'):
        MODELS.build(cfg.model)


@pytest.mark.slow
@pytest.mark.parametrize(
    'name', [n for n in CONFIGS if 'grounding/fiber_swin-b' in n and trains(n)]
)
def test_released_training_takes_a_step(name, shapes_root, tmp_path):  # noqa: F811
    cfg = on_shapes(get_config(name), shapes_root, 'train', vocabulary(shapes_root))
    cfg.work_dir, cfg.launcher = str(tmp_path), 'none'
    cfg.train_dataloader.batch_size = 1
    cfg.train_cfg.max_iters = 1
    cfg.optim_wrapper.type = 'OptimWrapper'  # AmpOptimWrapper needs a GPU
    cfg.optim_wrapper.pop('loss_scale')
    cfg.default_hooks.checkpoint = None  # two gigabytes
    cfg.custom_hooks = []  # a second copy of all weights
    for key in ('val', 'test'):
        for part in ('dataloader', 'evaluator', 'cfg'):
            cfg.pop(f'{key}_{part}', None)
    cfg.model.backbone.swin.drop_path_rate = 0.0  # a dropped block would not move
    # No warm-up: the first step shall move the weights.
    cfg.param_scheduler = []
    runner = RUNNERS.build(cfg)
    watched = {
        'stage 0': 'backbone.encoder.image.layers.0.blocks.0.attn.qkv.weight',
        'stage 3': 'backbone.encoder.image.layers.3.blocks.1.attn.qkv.weight',
        'text': 'backbone.encoder.text.encoder.layer.0.attention.self.query.weight',
        'head': 'bbox_head.bbox_pred.weight',
    }
    before = {key: runner.model.get_parameter(path).clone() for key, path in watched.items()}
    runner.train()
    assert runner.iter == 1
    loss = runner.message_hub.get_scalar('train/loss').current()
    assert loss == loss
    assert 0 < loss < 1e3
    changed = {
        key: not torch.equal(before[key], runner.model.get_parameter(path))
        for key, path in watched.items()
    }
    assert changed == {
        'stage 0': 'pretrain' not in name,
        'stage 3': True,
        'text': True,
        'head': True,
    }


def write_arrow_tables(folder, images) -> None:
    """Every table that the coarse stage reads, with two captioned images each."""
    tables = [name for data in ('coco', 'vg', 'sbu', 'gcc') for name in arrow_tables(data)]
    for table in tables:
        with ArrowWriter(folder / f'{table}.arrow') as writer:
            for i, path in enumerate(images[:2]):
                captions = [f'a red circle in {table}', 'two blue squares']
                writer.add(path.read_bytes(), captions, f'{table}_{i}')
    with ArrowWriter(folder / 'coco_caption_karpathy_test.arrow') as writer:
        for i, path in enumerate(images[2:5]):
            writer.add(path.read_bytes(), [f'{i} green squares', 'a cross'], f'test_{i}')


@pytest.mark.slow
def test_released_coarse_pretraining_takes_a_step(shapes_root, tmp_path):  # noqa: F811
    cfg = get_config('pretrain/fiber_swin-b_64xb64_100k_coco-vg-sbu-cc3m')
    (tmp_path / 'arrow').mkdir()
    write_arrow_tables(tmp_path / 'arrow', sorted((shapes_root / 'train').iterdir()))
    for node in nodes(cfg._cfg_dict):
        if 'tokenizer' in node:
            node['tokenizer'] = str(shapes_root / 'tokenizer')
        if node.get('type') == 'FiberArrowDataset':
            node['data_root'] = str(tmp_path / 'arrow')
        if node.get('type') == 'FiberSquareResize':
            node['size'] = 96
        if node.get('type') == 'FiberRetrievalRecall':
            node['topk'] = (1, 2)
    cfg.model.swin.update(window_size=3, drop_path_rate=0.0)
    cfg.model.roberta.vocab_size = vocabulary(shapes_root)
    cfg.work_dir, cfg.launcher = str(tmp_path / 'run'), 'none'
    cfg.train_dataloader.update(batch_size=2, num_workers=0, persistent_workers=False)
    cfg.val_dataloader.num_workers = 0
    cfg.train_cfg.max_iters = 1
    cfg.default_hooks.checkpoint = None  # a gigabyte
    cfg.param_scheduler = []  # no warm-up: the first step shall move the weights
    runner = RUNNERS.build(cfg)
    assert len(runner.train_dataloader.dataset) == 2 * 2 * (2 + 1 + 9 + 31)
    before = {n: p.detach().clone() for n, p in runner.model.named_parameters()}
    runner.train()
    losses = {
        name: runner.message_hub.get_scalar(f'train/{name}').current()
        for name in ('loss', 'loss_itc', 'loss_itm', 'loss_mlm')
    }
    assert all(0 < value < 1e3 for value in losses.values())
    assert losses['loss'] == pytest.approx(sum(losses.values()) - losses['loss'], rel=1e-4)
    recalls = [
        runner.message_hub.get_scalar(f'val/itc/{name}').current()
        for name in ('TR@1', 'TR@2', 'IR@1', 'IR@2')
    ]
    assert all(0 <= value <= 1 for value in recalls)
    still = {n for n, p in runner.model.named_parameters() if torch.equal(p, before[n])}
    # The separate ranking head is not trained; a shut gate lets no gradient into what is behind.
    assert still <= {n for n in before if 'rank_output' in n or 'i2t' in n or 't2i' in n}


@pytest.mark.slow
@pytest.mark.parametrize('name', ['itc_8xb32-acc4_10e_coco', 'itm_8xb8-acc16_10e_flickr30k'])
def test_released_retrieval_takes_a_step_and_is_tested(name, shapes_root, tmp_path):  # noqa: F811
    cfg = get_config(f'retrieval/fiber_swin-b_{name}')
    for node in nodes(cfg._cfg_dict):
        if 'tokenizer' in node:
            node['tokenizer'] = str(shapes_root / 'tokenizer')
        if node.get('type') == 'FiberKarpathyDataset':
            node.update(data_root=str(shapes_root), ann_file='annotations/dataset_coco.json')
            node.update(data_prefix=dict(img_path=''), indices=4 if node['split'] == 'train' else 5)
        if node.get('type') in ('FiberSquareResize', 'FiberRandomResizedCrop'):
            node['size'] = 96
        if 'num_workers' in node:
            node.update(num_workers=0, persistent_workers=False)
        if node.get('type') == 'FiberRetrievalRecall':
            node['topk'] = (1, 5)
    cfg.model.swin.update(window_size=3, drop_path_rate=0.0)
    cfg.model.roberta.vocab_size = vocabulary(shapes_root)
    cfg.work_dir, cfg.launcher = str(tmp_path / 'run'), 'none'
    cfg.train_dataloader.batch_size = 10
    cfg.train_cfg.max_epochs = 1
    cfg.optim_wrapper.accumulative_counts = 2
    cfg.default_hooks.checkpoint = None  # a gigabyte
    cfg.param_scheduler = []  # no warm-up: the first step shall move the weights
    runner = RUNNERS.build(cfg)
    before = {n: p.detach().clone() for n, p in runner.model.named_parameters()}
    runner.train()
    assert runner.iter == 2
    loss = 'loss_itc' if 'itc' in name else 'loss_itm'
    assert 0 < runner.message_hub.get_scalar(f'train/{loss}').current() < 1e3
    still = {n for n, p in runner.model.named_parameters() if torch.equal(p, before[n])}
    # Not trained: the ranking head, and fusion where both modalities are encoded alone; matching
    # has shut gates, and no use for the norms of modalities encoded alone.
    assert still <= {
        n
        for n in before
        if 'rank_output' in n or 'i2t' in n or 't2i' in n
        or n.startswith(('encoder.image.norm.', 'encoder.text.encoder.layer.11.output.LayerNorm'))
    }  # fmt: skip
    metrics = runner.test()
    protocol = 'itc' if 'itc' in name else 'itm'
    assert metrics.keys() == {f'{protocol}/{key}' for key in (
        'TR@1', 'TR@5', 'IR@1', 'IR@5', 'mean_recall')}  # fmt: skip


@pytest.mark.parametrize('name', ['eval_flickr30k', 'finetune_16xb1_20e_refcocoplus'])
def test_texts_of_an_image_are_evaluated_together(name, shapes_root):  # noqa: F811
    cfg = on_shapes(get_config(f'fiber_swin-b_{name}'), shapes_root, 'val', 618)
    init_default_scope('mmdet')
    loader = Runner.build_dataloader(cfg.test_dataloader)
    batches = [[sample.img_path for sample in batch['data_samples']] for batch in loader]
    assert len(batches) == len(loader)
    assert all(len(set(batch)) == 1 and len(batch) <= 5 for batch in batches)
    assert sum(map(len, batches)) == len(loader.dataset)
    assert len(batches) < len(loader.dataset) / 2


@pytest.mark.parametrize(
    ('name', 'metric'),
    [
        ('fiber_nano_1xb8_demo_shapes', 'coco/bbox_mAP_50'),
        ('fiber_nano_eval_flickr30k_shapes', 'flickr30k/R@1'),
        ('fiber_nano_eval_refcoco_shapes', 'refexp/precision@1'),
        ('fiber_nano_eval_lvis_shapes', 'lvis_fixed_ap/AP'),
    ],
)
def test_nano_is_evaluated_as_the_benchmarks_are(name, metric, shapes_root, tmp_path):  # noqa: F811
    cfg = on_shapes(get_config(name), shapes_root, 'val', vocabulary(shapes_root))
    cfg.model.backbone.swin.update(embed_dim=8, num_heads=(1, 2, 2, 4), depths=(1, 1, 1, 1))
    cfg.model.neck.in_channels = [
        8 * 2**i for i in cfg.model.backbone.get('out_indices', (1, 2, 3))
    ]
    for node in nodes(cfg._cfg_dict):
        if node.get('test_mode'):
            node['indices'] = 4
    cfg.work_dir, cfg.launcher = str(tmp_path), 'none'
    for key in ('train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler'):
        cfg.pop(key)
    for key in ('val_dataloader', 'val_cfg', 'val_evaluator', 'custom_hooks'):
        cfg.pop(key, None)
    metrics = RUNNERS.build(cfg).test()
    assert metric in metrics, sorted(metrics)
    assert 0 <= metrics[metric] <= 1


@pytest.mark.parametrize(
    'name', [n for n in CONFIGS if n.startswith('grounding/') and 'heatmap' not in n]
)
def test_the_hosts_tools_find_the_pipelines(name):
    """Those of mmdet's DetInferencer, and of test-time augmentation."""
    cfg = get_config(name)
    init_default_scope('mmdet')
    steps = DetInferencer._init_pipeline(DetInferencer.__new__(DetInferencer), cfg).transforms
    assert type(steps[-1]).__name__ == 'FiberPackInputs'
    tool = copy.deepcopy(cfg)
    load_tool('test').use_test_time_augmentation(tool)
    assert tool.model.type == 'FiberDetTTAModel'
    views = Compose(copy.deepcopy(tool.tta_pipeline)).transforms[-1]
    assert type(views).__name__ == 'TestTimeAug'
    flips = [node for node in nodes(tool.tta_pipeline) if node.get('type') == 'RandomFlip']
    # "The left one" is another one in a mirrored image.
    shapes_captions = name.endswith(('eval_flickr30k_shapes', 'eval_refcoco_shapes'))
    assert len(flips) == (0 if 'refcoco' in name or shapes_captions else 2)
    # Every data set of the loader goes through them.
    loader = [node for node in nodes(tool.test_dataloader) if 'pipeline' in node]
    assert [node.pipeline for node in loader] == [tool.tta_pipeline]


@pytest.mark.parametrize('name', ['fiber_nano_eval_refcoco_shapes', 'fiber_nano_1xb8_demo_shapes'])
def test_boxes_of_augmented_views_are_merged(name, shapes_root, tmp_path):  # noqa: F811
    cfg = on_shapes(get_config(name), shapes_root, 'val', vocabulary(shapes_root))
    load_tool('test').use_test_time_augmentation(cfg)
    init_default_scope('mmdet')
    image = next((shapes_root / 'val').glob('*.jpg'))
    views = Compose(cfg.tta_pipeline)(dict(img_path=str(image), img_id=0))
    metas = [sample.metainfo for sample in views['data_samples']]
    assert len(metas) == 2
    model = FiberDetTTAModel(module=Detector(cfg.model.module.test_cfg.box_end))
    boxes = [torch.tensor([[40.0, 30, 90, 70]])] * 2
    merged = model.merge_aug_bboxes(boxes, None, metas)
    mirrored = [bool(meta.get('flip')) for meta in metas]
    for box, flip in zip(merged, mirrored):
        assert (box == boxes[0][0]).all() != flip


@pytest.mark.parametrize('name', [n for n in CONFIGS if n.startswith('grounding/')])
def test_no_image_grows_without_bound(name):
    """Whatever its shape: a panorama of 8,000 x 20 pixels must not fill the memory."""
    sizes = [
        node for node in nodes(get_config(name)._cfg_dict) if node.get('type') == 'FiberResize'
    ]
    assert all(node.get('max_long', 1333) for node in sizes)


@pytest.mark.parametrize('name', [name for name in CONFIGS if re.search(r'_\d+xb\d+', name)])
def test_rates_are_meant_for_the_batch_of_the_name(name):
    processes, batch = map(int, re.search(r'_(\d+)xb(\d+)', name).groups())
    assert get_config(name).auto_scale_lr.base_batch_size == processes * batch


@pytest.mark.slow
def test_heatmaps_of_the_released_size_are_evaluated(shapes_root, tmp_path):  # noqa: F811
    cfg = get_config('fiber_swin-b_heatmap_flickr30k')
    for node in nodes(cfg._cfg_dict):
        if 'tokenizer' in node:
            node['tokenizer'] = str(shapes_root / 'tokenizer')
        if node.get('type') == 'FiberMDETRDataset':
            node.update(data_root=str(shapes_root), ann_file=shapes_file(node).format('val'))
            node.update(data_prefix=dict(img='val/'), indices=2)
        if node.get('type') == 'FiberSquareResize':
            node['size'] = 96
    cfg.model.model.swin.window_size = 3
    cfg.model.model.roberta.vocab_size = vocabulary(shapes_root)
    cfg.model.model.fusion.gate_init = 1.0  # shut ones let no gradient through
    cfg.test_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.work_dir, cfg.launcher = str(tmp_path), 'none'
    metrics = RUNNERS.build(cfg).test()
    for split in ('val', 'test'):
        assert metrics[f'{split}/heatmap/no_peak'] == 0
        assert 0 < metrics[f'{split}/heatmap/pointing_chance'] < 0.5


def test_the_nano_detector_can_start_from_nano_pretraining():
    """The encoders of both have the same parameters, with the windows of one size."""
    shapes = []
    for name in ('pretrain/fiber_nano_1xb32_1k_shapes', 'fiber_nano_1xb8_demo_shapes'):
        model = get_config(name).model
        settings = model.get('backbone', model)
        swin = dict(settings.swin, window_size=5)  # the start's tables are resized
        encoder = build_encoder(swin, settings.roberta, settings.fusion)
        # Norms of the output maps belong to the family, see docs/differences.md.
        shapes.append(
            {
                key: value.shape
                for key, value in encoder.state_dict().items()
                if not key.startswith('image.norm')
            }
        )
    assert shapes[0] == shapes[1]
