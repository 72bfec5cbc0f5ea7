"""MDETR-style files."""

import json

import pytest

from fiber_mm.datasets.mdetr import FiberMDETRDataset

CAPTION = 'a man and a dog with a man'


def write(path, images, annotations):
    """Images: dicts without sizes; annotations: (image, box x y w h, spans)."""
    content = {
        'images': [
            {'file_name': 'a.jpg', 'height': 50, 'width': 100, 'caption': CAPTION, **image}
            for image in images
        ],
        'annotations': [
            {'id': i, 'image_id': image, 'bbox': box, 'tokens_positive': spans, 'iscrowd': 0}
            for i, (image, box, spans) in enumerate(annotations)
        ],
    }
    path.write_text(json.dumps(content))
    return str(path)


def make(path, **options):
    # serialisation runs a full garbage collection each time
    return FiberMDETRDataset(ann_file=path, pipeline=[], serialize_data=False, **options)


def test_training(tmp_path):
    annotations = [
        (1, [0, 0, 10, 20], [[0, 5]]),
        (1, [5, 5, 10, 10], [[10, 15]]),
        (1, [9, 9, 10, 10], [[0, 5]]),
        (1, [1, 1, 10, 10], [[0, 5], [21, 26]]),
    ]
    dataset = make(write(tmp_path / 'a.json', [{'id': 1, 'dataset_name': 'flickr'}], annotations))
    info = dataset.get_data_info(0)
    assert info['text'] == CAPTION
    assert info['tokens_positive'] == [[[0, 5]], [[10, 15]], [[0, 5], [21, 26]]]
    assert [i['bbox_label'] for i in info['instances']] == [0, 1, 0, 2]
    assert info['instances'][1]['bbox'] == [5, 5, 15, 15]
    assert info['dataset_name'] == 'flickr'


@pytest.mark.parametrize(
    ('filter_cfg', 'message'),
    [({'filter_empty': True}, 'unknown keys'), ({'filter_empty_gt': False}, 'has no effect')],
)
def test_a_filter_that_does_nothing_is_refused(tmp_path, filter_cfg, message):
    path = write(tmp_path / 'a.json', [{'id': 1}], [(1, [0, 0, 10, 20], [[0, 5]])])
    assert len(make(path, filter_cfg={'filter_empty_gt': True})) == 1
    with pytest.raises(ValueError, match=message):
        make(path, filter_cfg=filter_cfg)


def test_phrases_of_evaluation(tmp_path):
    """The phrases asked for are those of tokens_positive_eval, in their order."""
    image = {
        'id': 1,
        'tokens_positive_eval': [[[10, 15]], [[0, 5]], [[21, 26]]],
        'sentence_id': 3,
        'original_img_id': 77,
    }
    annotations = [
        (1, [0, 0, 10, 20], [[0, 5]]),
        (1, [5, 5, 10, 10], [[10, 15]]),
        (1, [1, 1, 10, 10], [[0, 5]]),
    ]
    path = write(tmp_path / 'a.json', [image], annotations)
    info = make(path, test_mode=True).get_data_info(0)
    assert info['tokens_positive'] == image['tokens_positive_eval']
    assert info['phrases'] == ['a dog', 'a man', 'a man']
    assert info['phrase_boxes'] == [[[5, 5, 15, 15]], [[0, 0, 10, 20], [1, 1, 11, 11]], []]
    assert (info['sentence_id'], info['original_img_id']) == (3, 77)
    assert make(path).get_data_info(0)['tokens_positive'] == [[[0, 5]], [[10, 15]]]


def test_boxes_of_several_phrases(tmp_path):
    image = {'id': 1, 'tokens_positive_eval': [[[0, 5]], [[21, 26]]]}
    path = write(tmp_path / 'a.json', [image], [(1, [0, 0, 10, 20], [[0, 5], [21, 26]])])
    info = make(path, test_mode=True).get_data_info(0)
    assert info['phrase_boxes'] == [[[0, 0, 10, 20]], [[0, 0, 10, 20]]]


def test_captions_without_boxes_are_left_out(tmp_path):
    annotations = [(2, [0, 0, 10, 1], [[0, 5]]), (5, [0, 0, 9, 9], [[0, 5]])]
    path = write(tmp_path / 'a.json', [{'id': 5}, {'id': 2}, {'id': 1}], annotations)
    for test_mode in (False, True):
        dataset = make(path, test_mode=test_mode)
        assert [dataset.get_data_info(i)['img_id'] for i in range(len(dataset))] == [5]


def test_faulty_files(tmp_path):
    path = write(tmp_path / 'a.json', [{'id': 1}], [(1, [0, 0, None, 1], [[0, 5]])])
    with pytest.raises(ValueError, match='annotation 0 of image 1: the box'):
        make(path)
    content = {
        'images': [{'id': 1, 'file_name': 'a.jpg', 'height': 5, 'width': 5}],
        'annotations': [],
    }
    (tmp_path / 'b.json').write_text(json.dumps(content))
    with pytest.raises(ValueError, match='image 1 has no caption'):
        make(str(tmp_path / 'b.json'))
    content['annotations'] = [{'image_id': 1, 'bbox': [0, 0, 1, 1]}]
    (tmp_path / 'b.json').write_text(json.dumps(content))
    with pytest.raises(ValueError, match='annotation number 0 .* has no tokens_positive'):
        make(str(tmp_path / 'b.json'))


@pytest.mark.parametrize(
    'name', ['final_flickr_separateGT_val', 'finetune_refcoco_val', 'finetune_refcocog_val']
)
def test_shapes(shapes_root, name):
    dataset = FiberMDETRDataset(
        data_root=str(shapes_root),
        ann_file=f'annotations/{name}.json',
        data_prefix={'img': 'val/'},
        pipeline=[
            {'type': 'FiberLoadImage'},
            {'type': 'FiberResize', 'short': 64},
            {'type': 'FiberPackInputs'},
        ],
        test_mode=True,
    )
    assert len(dataset) > 4
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        assert len(info['phrase_boxes']) == len(info['phrases']) == len(info['tokens_positive'])
        assert all(info['phrase_boxes'])
    sample = dataset[0]['data_samples']
    assert sample.phrase_boxes == dataset.get_data_info(0)['phrase_boxes']
    assert sample.tokens_positive
