"""COCO- and LVIS-format data."""

import json
import pickle

import pytest

from fiber_mm.datasets.coco import FiberCocoDataset, FiberLVISDataset


def write(path, annotations, categories=None, images=4, **image_keys):
    """Annotations: (image, category id, x, y, w, h) or with a dict of more keys at the end."""
    rows = []
    for number, (image, category, *box) in enumerate(annotations):
        more = box.pop() if isinstance(box[-1], dict) else {}
        rows.append({'id': number, 'image_id': image, 'category_id': category, 'bbox': box, **more})
    content = {
        'images': [
            {'id': i, 'file_name': f'{i}.jpg', 'height': 50, 'width': 100, **image_keys}
            for i in reversed(range(images))
        ],
        'categories': categories
        or [{'id': 9, 'name': 'dog'}, {'id': 3, 'name': 'cat'}, {'id': 5, 'name': 'bow_(weapon)'}],
        'annotations': rows,
    }
    path.write_text(json.dumps(content))
    return str(path)


def make(path, **options):
    options = {'serialize_data': False, **options}  # each serialisation runs a full gc
    return FiberCocoDataset(ann_file=str(path), pipeline=[], **options)


def test_samples(tmp_path):
    path = write(tmp_path / 'a.json', [(1, 3, 10, 5, 20, 10), (1, 9, 0, 0, 5, 5, {'iscrowd': 1})])
    dataset = make(path, data_prefix={'img': 'folder'}, test_mode=True)
    assert dataset.metainfo['classes'] == ('dog', 'cat', 'bow_(weapon)')  # as in the file
    assert [dataset.get_data_info(i)['img_id'] for i in range(4)] == [0, 1, 2, 3]
    info = dataset.get_data_info(1)
    assert info['img_path'] == 'folder/1.jpg'
    assert (info['height'], info['width']) == (50, 100)
    assert info['text'] == dataset.metainfo['classes']
    assert info['custom_entities'] is True
    assert info['instances'] == [
        {'bbox': [10, 5, 30, 15], 'bbox_label': 1, 'ignore_flag': 0},
        {'bbox': [0, 0, 5, 5], 'bbox_label': 0, 'ignore_flag': 1},
    ]


def test_class_list_is_not_stored_with_every_image(tmp_path):
    names = [{'id': i, 'name': f'a rather long name of a class {i}'} for i in range(500)]
    path = write(tmp_path / 'a.json', [], names)
    dataset = make(path, test_mode=True, serialize_data=True)
    assert dataset.data_bytes.nbytes < len(pickle.dumps(dataset.metainfo['classes']))
    assert len(dataset.get_data_info(0)['text']) == 500


def test_part_of_the_classes(tmp_path):
    path = write(tmp_path / 'a.json', [(0, 9, 0, 0, 9, 9), (0, 5, 0, 0, 9, 9)])
    dataset = make(path, metainfo={'classes': ('bow_(weapon)', 'cat')})
    assert dataset.metainfo['classes'] == ('cat', 'bow_(weapon)')  # in the order of the file
    assert [i['bbox_label'] for i in dataset.get_data_info(0)['instances']] == [1]
    with pytest.raises(ValueError, match=r"has no classes \['cow'\]; it has \['dog'"):
        make(path, metainfo={'classes': ('cow',)})


@pytest.mark.parametrize('names', [('cat', 'cat'), ('cat', ' ')])
def test_category_names_are_there_once_and_not_empty(tmp_path, names):
    categories = [{'id': i, 'name': name} for i, name in enumerate(names)]
    path = write(tmp_path / 'a.json', [], categories)
    with pytest.raises(ValueError, match=rf'a\.json: category names .*faulty: \[{names[1]!r}\]'):
        make(path)


def test_background_is_no_class(tmp_path):
    path = write(
        tmp_path / 'a.json', [], [{'id': 0, 'name': '__background__'}, {'id': 1, 'name': 'cat'}]
    )
    assert make(path).metainfo['classes'] == ('cat',)


def test_faulty_boxes(tmp_path):
    annotations = [
        (0, 3, 200, 0, 9, 9),  # outside
        (0, 3, 5, 5, 0, 9),  # no area
        (0, 3, 5, 5, 9, -9),
        (0, 3, 5, 5, 9, 9, {'ignore': True}),
        (0, 3, -5, 5, 9, 9),
    ]
    dataset = make(write(tmp_path / 'a.json', annotations))
    assert [i['bbox'] for i in dataset.get_data_info(0)['instances']] == [[-5, 5, 4, 14]]
    path = write(tmp_path / 'b.json', [(0, 3, 5, 5, 9, 9), (2, 3, 5, float('nan'), 9, 9)])
    with pytest.raises(ValueError, match=r'b\.json: annotation 1 of image 2: the box'):
        make(path)


@pytest.mark.parametrize(
    ('part', 'field'),
    [('images', 'file_name'), ('images', 'height'), ('annotations', 'bbox'),
     ('annotations', 'category_id'), ('annotations', 'image_id')],
)  # fmt: skip
def test_missing_fields(tmp_path, part, field):
    path = write(tmp_path / 'a.json', [(0, 3, 5, 5, 9, 9), (0, 3, 5, 5, 9, 9)])
    content = json.loads((tmp_path / 'a.json').read_text())
    del content[part][1][field]
    (tmp_path / 'a.json').write_text(json.dumps(content))
    row = rf'a\.json: {part[:-1]} number 1 \(id'
    with pytest.raises(ValueError, match=f'{row} .* has no {field}, only'):
        make(path)


def test_an_image_of_lvis_without_a_file(tmp_path):
    write(tmp_path / 'a.json', [])
    content = json.loads((tmp_path / 'a.json').read_text())
    del content['images'][1]['file_name']
    (tmp_path / 'a.json').write_text(json.dumps(content))
    with pytest.raises(ValueError, match='the image with the id 2 has neither coco_url nor'):
        FiberLVISDataset(ann_file=str(tmp_path / 'a.json'), pipeline=[])


def test_classes_of_the_same_words_are_named(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr('fiber_mm.datasets.coco.print_log', lambda text, *_: said.append(text))
    names = ['defect_(small)', 'hole', 'defect_(large)']
    categories = [{'id': i, 'name': name} for i, name in enumerate(names)]
    path = write(tmp_path / 'a.json', [], categories)
    make(path)
    assert len(said) == 1
    assert "['defect_(small)', 'defect_(large)'] are the same words in a prompt" in said[0]
    FiberLVISDataset(ann_file=path, pipeline=[])
    assert len(said) == 1, 'LVIS has many of them'


def test_filter(tmp_path):
    annotations = [(0, 3, 0, 0, 9, 9), (1, 3, 0, 0, 1, 9), (2, 3, 0, 0, 9, 9)]
    path = write(tmp_path / 'a.json', annotations)
    filtered = make(path, filter_cfg={'filter_empty_gt': True})
    assert [filtered.get_data_info(i)['img_id'] for i in range(len(filtered))] == [0, 2]
    assert len(make(path)) == 4
    assert len(make(path, filter_cfg={'filter_empty_gt': True}, test_mode=True)) == 4
    with pytest.raises(ValueError, match='unknown keys in filter_cfg'):
        make(path, filter_cfg={'filter_empty': True})


def test_few_shots(tmp_path):
    """Image 0 uses up both quotas; image 2 brings a class that is left."""
    annotations = [
        (0, 9, 0, 0, 9, 9),
        (0, 3, 0, 0, 9, 9),
        (1, 9, 0, 0, 9, 9),
        (2, 3, 0, 0, 9, 9),
        (2, 5, 0, 0, 9, 9),
        (3, 5, 0, 0, 9, 9),
    ]
    dataset = make(write(tmp_path / 'a.json', annotations), few_shot=1)
    assert [dataset.get_data_info(i)['img_id'] for i in range(len(dataset))] == [0, 2]


def test_lvis_order_and_names(tmp_path):
    url = 'http://images.cocodataset.org/val2017/000000000139.jpg'
    path = write(tmp_path / 'a.json', [(0, 5, 0, 0, 9, 9)], coco_url=url)
    dataset = FiberLVISDataset(
        ann_file=path, data_prefix={'img': 'coco'}, pipeline=[], test_mode=True
    )
    assert dataset.metainfo['classes'] == ('cat', 'bow_(weapon)', 'dog')  # by id
    info = dataset.get_data_info(0)
    assert info['img_path'] == 'coco/val2017/000000000139.jpg'
    assert info['instances'][0]['bbox_label'] == 1


def test_shapes(shapes_root):
    dataset = FiberCocoDataset(
        data_root=str(shapes_root),
        ann_file='annotations/instances_train.json',
        data_prefix={'img': 'train/'},
        pipeline=[{'type': 'FiberLoadImage'}, {'type': 'mmdet.LoadAnnotations', 'with_bbox': True}],
        filter_cfg={'filter_empty_gt': True},
    )
    assert len(dataset) == 12
    sample = dataset[0]
    assert sample['img'].shape[:2] == (sample['height'], sample['width'])
    assert len(sample['gt_bboxes']) == len(sample['gt_bboxes_labels']) > 0
    lvis = FiberLVISDataset(
        data_root=str(shapes_root),
        ann_file='annotations/lvis_v1_val.json',
        data_prefix={'img': ''},
        pipeline=[{'type': 'FiberLoadImage'}],
        test_mode=True,
    )
    assert lvis[0]['img'].ndim == 3
