"""ODVG files, and detection and grounding data in one batch."""

import json

import numpy as np
import pytest
from mmdet.registry import DATASETS as MMDET_DATASETS

from fiber_mm.datasets.odvg import FiberODVGDataset

OD = {
    'filename': 'a.jpg', 'height': 50, 'width': 100,
    'detection': {'instances': [
        {'bbox': [1, 2, 30, 40], 'label': 1, 'category': 'dog'},
        {'bbox': [5, 5, 5, 9], 'label': 0, 'category': 'cat'},
    ]},
}  # fmt: skip
VG = {
    'filename': 'b.jpg', 'height': 50, 'width': 100,
    'grounding': {'caption': 'two cats and a dog', 'regions': [
        {'bbox': [[1, 2, 30, 40], [3, 3, 9, 9]], 'phrase': 'two cats', 'tokens_positive': [[0, 8]]},
        {'bbox': [0, 0, 9, 9], 'phrase': 'a dog', 'tokens_positive': [[13, 18]]},
    ]},
}  # fmt: skip


def make(tmp_path, *rows, label_map=None, **options):
    (tmp_path / 'a.jsonl').write_text('\n'.join(json.dumps(row) for row in rows))
    label_map = {'0': 'cat', '1': 'dog/wolf'} if label_map is None else label_map
    (tmp_path / 'label_map.json').write_text(json.dumps(label_map))
    options = {'label_map_file': 'label_map.json', 'serialize_data': False, **options}
    return FiberODVGDataset(data_root=str(tmp_path), ann_file='a.jsonl', pipeline=[], **options)


def test_both_kinds(tmp_path):
    dataset = make(tmp_path, OD, VG, data_prefix={'img': 'train'})
    assert dataset.metainfo['classes'] == ('cat', 'dog/wolf')
    detection, grounding = dataset.get_data_info(0), dataset.get_data_info(1)
    assert detection['img_path'].endswith('train/a.jpg')
    assert detection['text'] == ('cat', 'dog/wolf')
    assert detection['custom_entities'] is True
    assert [i['bbox_label'] for i in detection['instances']] == [1]  # the one without area is out
    assert grounding['text'] == 'two cats and a dog'
    assert grounding['tokens_positive'] == [[[0, 8]], [[13, 18]]]
    assert [i['bbox_label'] for i in grounding['instances']] == [0, 0, 1]
    assert grounding['custom_entities'] is False


def test_grounding_needs_no_label_map(tmp_path):
    assert len(make(tmp_path, VG, label_map_file=None)) == 1
    with pytest.raises(ValueError, match=r'a\.jsonl:1 is a detection sample: give a label_map'):
        make(tmp_path, OD, label_map_file=None)


def test_filter(tmp_path):
    empty = {**OD, 'detection': {'instances': []}}
    assert len(make(tmp_path, OD, empty)) == 2
    assert len(make(tmp_path, OD, empty, filter_cfg={'filter_empty_gt': True})) == 1
    with pytest.raises(ValueError, match=r"\['filter_empty'\]; known are \['filter_empty_gt'\]"):
        make(tmp_path, OD, empty, filter_cfg={'filter_empty': True})


def test_faulty_files(tmp_path):
    with pytest.raises(ValueError, match=r'a\.jsonl:1 has only'):
        make(tmp_path, {'filename': 'a.jpg'})
    faulty = {**OD, 'detection': {'instances': [{'bbox': [1, 2, 3, float('nan')], 'label': 0}]}}
    with pytest.raises(ValueError, match=r'a\.jsonl:2: instance 0: the box'):
        make(tmp_path, OD, faulty)
    faulty = {**OD, 'detection': {'instances': [{'bbox': [1, 2, 3, 4], 'label': 7}]}}
    with pytest.raises(ValueError, match='has the label 7, the label map has 2 classes'):
        make(tmp_path, faulty)
    with pytest.raises(ValueError, match=r'a\.jsonl:1: instance number 0 .* has no label'):
        make(tmp_path, {**OD, 'detection': {'instances': [{'bbox': [1, 2, 3, 4]}]}})
    for key in ('caption', 'regions'):
        grounding = {k: v for k, v in VG['grounding'].items() if k != key}
        with pytest.raises(ValueError, match=f'grounding number 0 .* has no {key}, only'):
            make(tmp_path, {**VG, 'grounding': grounding})
    grounding = {**VG['grounding'], 'regions': [{'bbox': [1, 2, 3, 4]}]}
    with pytest.raises(ValueError, match='region number 0 .* has no tokens_positive'):
        make(tmp_path, {**VG, 'grounding': grounding})
    with pytest.raises(ValueError, match='without gaps'):
        make(tmp_path, OD, label_map={'1': 'cat'})


def test_detection_and_grounding_in_one_data_set(shapes_root):
    """One concatenated data set gives samples of both kinds, ready for the model."""
    tokenizer = str(shapes_root / 'tokenizer')
    pipeline = [
        {'type': 'FiberLoadImage'},
        {'type': 'mmdet.LoadAnnotations', 'with_bbox': True},
        {'type': 'FiberInclusiveBoxes'},
        {'type': 'FiberResize', 'short': (64, 96), 'max_long': 160},
        {'type': 'mmdet.RandomFlip_GLIP', 'prob': 0.5},
        {'type': 'FiberPrompt', 'tokenizer': tokenizer, 'num_negatives': 20},
        {'type': 'FiberPackInputs'},
    ]
    common = {
        'data_root': str(shapes_root),
        'data_prefix': {'img': 'train/'},
        'filter_cfg': {'filter_empty_gt': True},
        'pipeline': pipeline,
    }
    dataset = MMDET_DATASETS.build(
        {
            'type': 'ConcatDataset',
            'ignore_keys': ['classes'],
            'datasets': [
                {
                    'type': 'FiberODVGDataset',
                    'ann_file': 'annotations/train_od.jsonl',
                    'label_map_file': 'annotations/label_map.json',
                    **common,
                },
                {'type': 'FiberODVGDataset', 'ann_file': 'annotations/train_vg.jsonl', **common},
                {
                    'type': 'FiberCocoDataset',
                    'ann_file': 'annotations/instances_train.json',
                    **common,
                },
                {
                    'type': 'FiberMDETRDataset',
                    'ann_file': 'annotations/finetune_refcoco_train.json',
                    **common,
                },
            ],
        }
    )
    np.random.seed(0)  # noqa: NPY002
    from fiber_mm.models.data_preprocessors import FiberDataPreprocessor

    preprocessor = FiberDataPreprocessor(tokenizer, pad_to='longest', pad_size_divisor=32)
    starts = [0, *dataset.cumulative_sizes[:-1]]
    rows = [dataset[index] for index in starts]
    batch = {
        'inputs': [row['inputs'] for row in rows],
        'data_samples': [row['data_samples'] for row in rows],
    }
    data = preprocessor(batch, True)
    for sample in data['data_samples']:
        positive = sample.gt_instances.positive_map
        assert len(positive) == len(sample.gt_instances.bboxes) > 0
        assert positive.any(1).all()
        assert isinstance(sample.text, str)
    assert '. ' in data['data_samples'][0].text  # a class list
    assert dataset.get_data_info(0)['width'] > 0  # what aspect-ratio batches need
