"""The files open with the classes that read the real data sets, and say what the scenes say."""

import json
import re

import numpy as np
import pytest
from mmdet.registry import DATASETS
from mmdet.utils import register_all_modules

from fiber_mm.shapes import vocabulary as V

from .conftest import SPLITS

register_all_modules(init_default_scope=False)


def build(folder, kind: str, split: str, ann: str, **more):
    data_prefix = more.pop('data_prefix', dict(img=f'{split}/'))
    return DATASETS.build(dict(type=kind, data_root=f'{folder}/', ann_file=f'annotations/{ann}',
                               data_prefix=data_prefix, pipeline=[], **more))  # fmt: skip


def boxes(scene) -> list[list[int]]:
    return [[x, y, x + w, y + h] for x, y, w, h in (o['box'] for o in scene['objects'])]


@pytest.mark.parametrize('split', list(SPLITS))
def test_coco(folder, rows, split):
    data = build(folder, 'CocoDataset', split, f'instances_{split}.json', test_mode=True,
                 metainfo=dict(classes=V.CATEGORIES))  # fmt: skip
    assert len(data) == SPLITS[split]
    for i, scene in enumerate(rows[split]):
        info = data.get_data_info(i)
        assert info['img_path'].endswith(scene['file_name'])
        assert [o['bbox'] for o in info['instances']] == boxes(scene)
        names = [V.CATEGORIES[o['bbox_label']] for o in info['instances']]
        assert names == [o['category'] for o in scene['objects']]


def test_coco_lists_all_classes_alike_in_every_split(folder):
    both = [json.loads((folder / f'annotations/instances_{s}.json').read_text()) for s in SPLITS]
    assert both[0]['categories'] == both[1]['categories']
    assert [c['name'] for c in both[0]['categories']] == list(V.CATEGORIES)
    assert max(a['category_id'] for a in both[0]['annotations']) <= 40  # none held out in train
    ids = [a['id'] for d in both for a in d['annotations']]
    assert len(set(ids)) == len(ids)
    for annotation in both[0]['annotations']:
        assert 0 < annotation['area'] <= annotation['bbox'][2] * annotation['bbox'][3]


@pytest.mark.parametrize('split', list(SPLITS))
def test_odvg_detection(folder, rows, split):
    label_map = 'label_map.json' if split == 'train' else 'label_map_all.json'
    data = build(folder, 'ODVGDataset', split, f'{split}_od.jsonl', return_classes=True,
                 label_map_file=f'annotations/{label_map}')  # fmt: skip
    for i, scene in enumerate(rows[split]):
        info = data.get_data_info(i)
        assert info['dataset_mode'] == 'OD'
        assert [o['bbox'] for o in info['instances']] == boxes(scene)
        names = [info['text'][str(o['bbox_label'])] for o in info['instances']]
        assert names == [o['category'] for o in scene['objects']]


def test_training_label_map_has_no_held_out_class(folder):
    seen = json.loads((folder / 'annotations/label_map.json').read_text())
    everything = json.loads((folder / 'annotations/label_map_all.json').read_text())
    assert list(seen.values()) == list(V.SEEN)
    assert {k: everything[k] for k in seen} == seen
    assert len(everything) == 48


def test_training_files_never_name_a_held_out_class(folder):
    pattern = re.compile('|'.join(name.replace(' ', '[ _]') for name in V.HELD_OUT))
    for name in ('train_od.jsonl', 'train_vg.jsonl', 'train_refexp_vg.jsonl', 'label_map.json',
                 'final_flickr_separateGT_train.json', 'finetune_refcoco_train.json'):  # fmt: skip
        assert not pattern.search((folder / 'annotations' / name).read_text()), name


@pytest.mark.parametrize('split', list(SPLITS))
def test_odvg_grounding(folder, rows, split):
    data = build(folder, 'ODVGDataset', split, f'{split}_vg.jsonl', return_classes=True)
    captions = [(s, c) for s in rows[split] for c in s['captions']]
    assert len(data) == len(captions)
    for i, (scene, caption) in enumerate(captions):
        info = data.get_data_info(i)
        assert info['text'] == caption['text']
        for k, phrase in enumerate(caption['phrases']):
            ((start, end),) = info['phrases'][k]['tokens_positive']
            assert info['text'][start:end] == info['phrases'][k]['phrase'] == phrase['phrase']
            found = [o['bbox'] for o in info['instances'] if o['bbox_label'] == k]
            assert found == [boxes(scene)[j] for j in phrase['objects']]


def test_odvg_expressions(folder, rows):
    data = build(folder, 'ODVGDataset', 'val', 'val_refexp_vg.jsonl', return_classes=True)
    expressions = [(s, e) for s in rows['val'] for e in s['expressions']]
    assert len(data) == len(expressions)
    for i, (scene, expression) in enumerate(expressions):
        info = data.get_data_info(i)
        assert info['phrases'][0]['tokens_positive'] == [[0, len(info['text'])]]
        assert [o['bbox'] for o in info['instances']] == [boxes(scene)[expression['object']]]


@pytest.mark.parametrize('split', list(SPLITS))
def test_flickr30k(folder, rows, split):
    data = build(folder, 'Flickr30kDataset', split, f'final_flickr_separateGT_{split}.json',
                 test_mode=True)  # fmt: skip
    captions = [(s, c) for s in rows[split] for c in s['captions']]
    assert len(data) == len(captions)
    for i, (scene, caption) in enumerate(captions):
        info = data.get_data_info(i)
        assert info['text'] == caption['text']
        assert info['phrases'] == [p['phrase'] for p in caption['phrases']]
        for k, phrase in enumerate(caption['phrases']):
            found = [o['bbox'] for o, j in zip(info['instances'], info['phrase_ids']) if j == k]
            assert found == [boxes(scene)[j] for j in phrase['objects']]


@pytest.mark.parametrize('name', ['refcoco', 'refcoco+', 'refcocog'])
def test_refcoco(folder, rows, name):
    data = build(folder, 'MDETRStyleRefCocoDataset', 'val', f'finetune_{name}_val.json',
                 test_mode=True)  # fmt: skip
    known = {(s['file_name'], e['text']): boxes(s)[e['object']]
             for s in rows['val'] for e in s['expressions']}  # fmt: skip
    assert len(data) == len(known) if name == 'refcoco' else 0 < len(data) < len(known)
    places = re.compile(r'left|right|top|bottom|middle')
    for i in range(len(data)):
        info = data.get_data_info(i)
        assert info['dataset_mode'] == name
        key = info['img_path'].split('/')[-1], info['text']
        assert [o['bbox'] for o in info['instances']] == [known[key]]
        assert name != 'refcoco+' or not places.search(info['text'])


@pytest.mark.parametrize('split', list(SPLITS))
def test_lvis(folder, rows, split):
    data = build(folder, 'FiberLVISDataset', split, f'lvis_v1_{split}.json', test_mode=True,
                 data_prefix=dict(img=''))  # fmt: skip
    assert len(data) == SPLITS[split]
    for i, scene in enumerate(rows[split]):
        info = data.get_data_info(i)
        assert info['img_path'].endswith(f'{split}/{scene["file_name"]}')
        known = {tuple(b): V.lvis_name(o['texture'], o['colour'], o['shape'])
                 for b, o in zip(boxes(scene), scene['objects'])}  # fmt: skip
        assert info['instances']
        for obj in info['instances']:
            assert V.LVIS_NAMES[obj['bbox_label']] == known[tuple(obj['bbox'])]


@pytest.mark.parametrize('split', list(SPLITS))
def test_lvis_is_federated(folder, rows, split):
    data = json.loads((folder / f'annotations/lvis_v1_{split}.json').read_text())
    present, annotated = {}, {}
    for scene in rows[split]:
        present[scene['image_id']] = [
            V.LVIS_IDS[V.lvis_name(o['texture'], o['colour'], o['shape'])] for o in scene['objects']
        ]
    for a in data['annotations']:
        annotated.setdefault(a['image_id'], []).append(a['category_id'])
    for image in data['images']:
        there, boxed = present[image['id']], annotated[image['id']]
        assert image['neg_category_ids']
        assert not set(image['neg_category_ids']) & set(there)
        for category in set(boxed):
            complete = boxed.count(category) == there.count(category)
            assert complete != (category in image['not_exhaustive_category_ids'])
    missing = sum(len(set(present[i])) - len(set(annotated[i])) for i in present)
    assert missing > 0  # some categories are left out


def test_lvis_frequencies_come_from_train(folder):
    train = json.loads((folder / 'annotations/lvis_v1_train.json').read_text())
    val = json.loads((folder / 'annotations/lvis_v1_val.json').read_text())
    assert train['categories'] == val['categories']
    images, instances = {}, {}
    for a in train['annotations']:
        images.setdefault(a['category_id'], set()).add(a['image_id'])
        instances[a['category_id']] = instances.get(a['category_id'], 0) + 1
    for c in train['categories']:
        count = len(images.get(c['id'], ()))
        assert c['image_count'] == count
        assert c['instance_count'] == instances.get(c['id'], 0)
        assert c['frequency'] == ('r' if count <= 10 else 'c' if count <= 100 else 'f')


def test_lvis_has_a_long_tail():
    """Expected shares, not a sample: the rarest texture of a class is 25 times rarer."""
    assert V.TEXTURE_SHARES[0] / V.TEXTURE_SHARES[-1] > 20
    assert np.isclose(sum(V.TEXTURE_SHARES), 1)
    assert len(V.LVIS_NAMES) == 192
    assert 'plain_red_cross_(shape)' in V.LVIS_NAMES
