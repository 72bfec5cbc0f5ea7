"""The configs that the documents give for own data parse, build and read tiny data."""

import json
import re
from pathlib import Path

import pytest
import torch
from config_nodes import nodes
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from PIL import Image
from shapes_fixture import shapes_root  # noqa: F401
from test_datasets.caption_data import jpeg

from fiber_mm.config_lookup import config_folder, get_config
from fiber_mm.datasets.writers import ArrowWriter, ShardWriter
from fiber_mm.engine import FiberRunner, check_config
from fiber_mm.registry import METRICS, MODELS

DOCS = Path(__file__).resolve().parents[1] / 'docs'
#: A config of a document: its name in the text before, and the block.
NAMED_BLOCK = re.compile(r'`(my_configs/\w+\.py)`[^`]*```python\n(.*?)```', re.S)

if not DOCS.is_dir():
    pytest.skip('not in a source tree', allow_module_level=True)


@pytest.fixture
def configs(tmp_path, monkeypatch):
    """A working folder with the package's configs and those of the documents."""
    (tmp_path / 'configs').symlink_to(config_folder())
    (tmp_path / 'my_configs').mkdir()
    for document in ('finetune', 'pretrain'):
        for name, code in NAMED_BLOCK.findall((DOCS / f'{document}.md').read_text()):
            (tmp_path / name).write_text(code)
    monkeypatch.chdir(tmp_path)
    return tmp_path / 'my_configs'


def strings(value):
    """All strings of a config."""
    if isinstance(value, str):
        yield value
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from strings(item)


def loader(cfg, part, tokenizer, size):
    """A loader of the config, in this process, on small images."""
    settings = cfg[f'{part}_dataloader']
    for node in nodes(settings):
        if 'tokenizer' in node:
            node['tokenizer'] = str(tokenizer)
        if node.get('type') == 'FiberResize':
            node.update(short=size, max_long=size)
        if node.get('type') == 'FiberSquareResize':
            node['size'] = size
    settings.update(num_workers=0, persistent_workers=False)
    init_default_scope(cfg.default_scope)
    return FiberRunner.build_dataloader(settings)


def test_the_documents_have_these_configs(configs):
    names = {path.name for path in configs.iterdir()}
    assert names == {'helmets.py', 'retinanet.py', 'pairs.py', 'shards.py'}
    for path in configs.iterdir():
        check_config(Config.fromfile(path)._cfg_dict)


# -- an own detector --


def test_a_detector_reads_nothing_of_coco(configs):
    cfg = Config.fromfile(configs / 'helmets.py')
    assert get_config('fiber_swin-b_finetune_16xb2_24e_coco').data_root == 'data/coco/'
    folder = cfg.data_root
    for part, file in (('train', cfg.train_file), ('val', cfg.val_file), ('test', cfg.val_file)):
        dataset = cfg[f'{part}_dataloader'].dataset
        assert (dataset.data_root, dataset.ann_file) == (folder, file)
        assert dataset.data_prefix == dict(img='train/' if part == 'train' else 'val/')
        assert bool(dataset.get('test_mode')) == (part != 'train')
        if part != 'train':
            assert cfg[f'{part}_evaluator'].ann_file == folder + file
    assert 'coco' not in folder
    settings = [cfg[f'{part}_dataloader'] for part in ('train', 'val', 'test')]
    settings += [cfg.val_evaluator, cfg.test_evaluator]
    assert not [text for text in strings(settings) if 'coco/' in text or '2017' in text]


@pytest.mark.parametrize('images', [1000, 60, 40_000])
def test_its_schedule_follows_the_number_of_images(configs, images):
    path = configs / 'helmets.py'
    text, count = re.subn(r'(?m)^images = 1000\b', f'images = {images}', path.read_text())
    assert count == 1
    path.write_text(text)
    cfg = Config.fromfile(path)
    steps = 24 * images // 2
    assert cfg.train_cfg.max_iters == steps
    assert cfg.train_cfg.type == 'FiberIterTrainLoop'
    warmup, drops = cfg.param_scheduler
    assert (warmup.type, drops.type) == ('LinearLR', 'MultiStepLR')
    assert drops.milestones == [round(0.67 * steps), round(0.89 * steps)]
    assert 0 < warmup.end < drops.milestones[0] / 2
    for interval in (cfg.train_cfg.val_interval, cfg.default_hooks.checkpoint.interval):
        assert steps // 13 <= interval <= steps // 12
    # The rate stays the released one, and says what batch it is meant for.
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=32)
    # As the text says of the batch.
    assert cfg.batch == cfg.train_dataloader.batch_size


def test_its_images_are_read_as_a_person_sees_them(configs):
    released = get_config('fiber_swin-b_finetune_16xb2_24e_coco')
    cfg = Config.fromfile(configs / 'helmets.py')
    unturned = dict(
        type='fiber_mm.datasets.LoadImageFromFile',
        color_type='color_ignore_orientation',
        backend_args=dict(backend='fiber_image', as_released=True),
    )
    seen = dict(type=unturned['type'], backend_args=dict(backend='fiber_image'))
    pipelines = [
        [c[f'{part}_dataloader'].dataset.pipeline for part in ('train', 'val', 'test')]
        + [c[f'{part}_pipeline'] for part in ('train', 'test', 'tta')]
        for c in (released, cfg)
    ]
    for before, after in zip(*pipelines):
        assert before[0] == unturned
        assert after == [seen, *before[1:]]


def test_its_loaders_and_evaluators_read_own_files(configs, shapes_root):  # noqa: F811
    cfg = Config.fromfile(configs / 'helmets.py')
    data = configs.parent / cfg.data_root
    (data / 'annotations').mkdir(parents=True)
    for split, name in (('train', cfg.train_file), ('val', cfg.val_file)):
        content = json.loads((shapes_root / f'annotations/instances_{split}.json').read_text())
        if split == 'train':  # an image without boxes, and one that is turned by EXIF
            without, turned = content['images'][0], content['images'][1]
            left = [a for a in content['annotations'] if a['image_id'] != without['id']]
            content['annotations'] = left
        (data / name).write_text(json.dumps(content))
    (data / 'val').symlink_to(shapes_root / 'val')
    (data / 'train').mkdir()
    for path in (shapes_root / 'train').iterdir():
        (data / 'train' / path.name).symlink_to(path)
    exif = Image.Exif()
    exif[0x0112] = 6
    file = data / 'train' / turned['file_name']
    image = Image.open(file).crop((0, 0, 128, 64))
    file.unlink()
    image.save(file, exif=exif)

    train = loader(cfg, 'train', shapes_root / 'tokenizer', 96)
    assert len(train.dataset) == 11
    batch = next(iter(train))
    assert len(batch['inputs']) == 2
    ids = [train.dataset.get_data_info(i)['img_id'] for i in range(11)]
    upright = train.dataset[ids.index(turned['id'])]['inputs']
    assert upright.shape[1] > upright.shape[2]
    val = loader(cfg, 'val', shapes_root / 'tokenizer', 96)
    assert len(val.dataset) == 8
    assert len(next(iter(val))['inputs']) == 1
    metric = METRICS.build(cfg.test_evaluator)
    assert metric.ann_file == cfg.data_root + cfg.val_file

    # "To train on them as background".
    cfg.merge_from_dict({'train_dataloader.dataset.filter_cfg.filter_empty_gt': False})
    assert len(loader(cfg, 'train', shapes_root / 'tokenizer', 96).dataset) == 12


def test_the_encoder_in_retinanet(configs):
    cfg = Config.fromfile(configs / 'retinanet.py')
    grounder = get_config('fiber_swin-b_zeroshot_coco').model
    for key in ('mean', 'std', 'bgr_to_rgb'):
        assert cfg.model.data_preprocessor[key] == grounder.data_preprocessor[key]
    # The table says what a coarse encoder wants.
    coarse = get_config('fiber_swin-b_64xb64_100k_coco-vg-sbu-cc3m').model.data_preprocessor
    assert coarse.to_rgb
    text = (DOCS / 'finetune.md').read_text()
    for numbers in (coarse.mean, coarse.std):
        assert f'`{numbers}`' in text
    assert cfg.model.backbone.init_cfg.prefix == 'backbone.'
    init_default_scope('mmdet')
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
        there = MODELS.build(grounder).state_dict()
    assert model.backbone.out_channels == cfg.model.neck.in_channels
    own = {f'backbone.{key}' for key in model.backbone.state_dict()}
    assert own <= there.keys()
    assert not any('encoder.text' in key for key in own)


# -- own pairs --


@pytest.fixture
def pairs(configs):
    """The tables and shards that the documents name, below the working folder."""
    arrow, shards = configs.parent / 'data/arrow', configs.parent / 'data/mine'
    arrow.mkdir(parents=True)
    shards.mkdir()
    for name, count in (('mine', 70), ('mine_val', 12)):
        with ArrowWriter(arrow / f'{name}.arrow') as writer:
            for i in range(count):
                writer.add(jpeg(i), [f'a red circle {i}', f'two red circles {i}'], f'{name}_{i}')
    with ShardWriter(shards, 'train', 40) as writer:
        for i in range(70):
            writer.add(f'{i:06d}', jpeg(i), [f'a blue star {i}'], f'shard_{i}', 'png')
    return configs


def test_tables_of_own_pairs(pairs, shapes_root):  # noqa: F811
    cfg = Config.fromfile(pairs / 'pairs.py')
    train = loader(cfg, 'train', shapes_root / 'tokenizer', 32)
    assert len(train.dataset) == 140
    batch = next(iter(train))
    assert len(batch['inputs']) == 64
    assert all('red circle' in sample.text for sample in batch['data_samples'])
    assert 'mlm_ids' in batch['data_samples'][0]
    for part in ('val', 'test'):
        held_out = loader(cfg, part, shapes_root / 'tokenizer', 32)
        assert len(held_out.dataset) == 12
        sample = next(iter(held_out))['data_samples'][0]
        assert sample.text == ['a red circle 0', 'two red circles 0']
        assert held_out.dataset.test_mode
    assert max(cfg.val_evaluator.topk) <= 12
    warmup, decay = cfg.param_scheduler
    assert cfg.train_cfg.max_iters == cfg.iterations == decay.end - 1
    assert warmup.end - 1 == decay.begin == cfg.iterations // 10
    assert cfg.train_cfg.val_interval == cfg.default_hooks.checkpoint.interval


def test_validation_of_own_pairs_can_be_left_out(configs):
    path = configs / 'pairs.py'
    line = 'val_dataloader = val_evaluator = val_cfg = None'
    assert f'`{line}`' in (DOCS / 'pretrain.md').read_text()
    text = path.read_text()
    start, end = text.index('# One sample is an image'), text.index('load_from')
    path.write_text(f'{text[:start]}{line}\n{text[end:]}')
    cfg = Config.fromfile(path)
    assert cfg.val_dataloader is cfg.val_evaluator is cfg.val_cfg is None
    assert cfg.train_dataloader.dataset.tables == ['mine']


def test_shards_of_own_pairs(pairs, shapes_root):  # noqa: F811
    cfg = Config.fromfile(pairs / 'shards.py')
    assert cfg.train_cfg.type == 'FiberIterTrainLoop'
    train = loader(cfg, 'train', shapes_root / 'tokenizer', 32)
    batches = iter(train)
    for _ in range(3):  # endless: more than the 70 pairs that there are
        batch = next(batches)
        assert len(batch['inputs']) == 64
        assert all('blue star' in sample.text for sample in batch['data_samples'])
    assert 'mlm_ids' in batch['data_samples'][0]
    held_out = loader(cfg, 'val', shapes_root / 'tokenizer', 32)
    assert len(held_out.dataset) == 12


def test_released_and_own_tables_in_one_loader(pairs):
    """``dataset=dict(datasets=[...])``, without ``_delete_``."""
    (pairs / 'both.py').write_text(
        "_base_ = '../configs/pretrain/fiber_swin-b_64xb64_100k_coco-vg-sbu-cc3m.py'\n"
        "mine = dict(type='FiberArrowDataset', data_root='data/arrow/', tables=['mine'])\n"
        'train_dataloader = dict(dataset=dict(datasets=[_base_.coco, _base_.vg, mine]))\n'
    )
    dataset = Config.fromfile(pairs / 'both.py').train_dataloader.dataset
    assert dataset.type == 'ConcatDataset'
    assert [part.get('name', 'mine') for part in dataset.datasets] == ['coco', 'vg', 'mine']


def test_a_stream_of_shards_is_not_concatenated(pairs):
    init_default_scope('mmpretrain')
    parts = [
        dict(type='FiberShardDataset', shards='data/mine'),
        dict(type='FiberArrowDataset', data_root='data/arrow', tables=['mine']),
    ]
    settings = dict(batch_size=2, num_workers=0, sampler=dict(type='FiberInfiniteSampler'))
    with pytest.raises(AttributeError, match='cannot be wrapped or concatenated.* one list'):
        Runner.build_dataloader(dict(settings, dataset=dict(type='ConcatDataset', datasets=parts)))


# -- what the retrieval document tests --


@pytest.mark.parametrize(
    'name',
    [
        'fiber_nano_1xb32_1k_shapes',
        'fiber_swin-b_64xb64_100k_coco-vg-sbu-cc3m',
        'fiber_swin-b_8xb64-acc8_100k_coco-vg-sbu-cc3m',
    ],
)
def test_pretraining_is_tested_on_what_it_validates_on(name):
    cfg = get_config(f'pretrain/{name}')
    assert cfg.test_dataloader == cfg.val_dataloader
    assert cfg.test_evaluator == cfg.val_evaluator
    assert cfg.test_cfg == dict(type='FiberRetrievalTestLoop', protocols=cfg.val_cfg.protocols)
