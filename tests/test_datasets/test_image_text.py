"""Karpathy's files and Visual Genome's region descriptions."""

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from fiber_mm.datasets.image_text import (
    CaptionChecker,
    FiberKarpathyDataset,
    FiberVGCaptionDataset,
    karpathy_splits,
    pair_index,
)
from fiber_mm.engine.gallery import Gallery
from fiber_mm.registry import DATASETS

LOAD = [{'type': 'FiberLoadImage'}, {'type': 'FiberSquareResize', 'size': 16}]
PIPELINE = [*LOAD, {'type': 'FiberPackImageText'}]


def karpathy_image(number, split, captions, **more):
    """An entry as in dataset_coco.json."""
    sentences = [
        {'tokens': text.split(), 'raw': text, 'imgid': number, 'sentid': 100 * number + i}
        for i, text in enumerate(captions)
    ]
    return {
        'filepath': 'val2014',
        'filename': f'COCO_val2014_{number:012d}.jpg',
        'imgid': number,
        'cocoid': 1000 + number,
        'split': split,
        'sentids': [s['sentid'] for s in sentences],
        'sentences': sentences,
        **more,
    }


IMAGES = [
    karpathy_image(0, 'test', ['a dog', 'A dog.']),
    karpathy_image(1, 'train', ['a cat', 'two cats', 'a cat']),
    karpathy_image(2, 'restval', ['a bus']),
    karpathy_image(3, 'val', [' a car ']),
]


def write(path, images):
    path.write_text(json.dumps({'images': images, 'dataset': 'coco'}))
    return str(path)


def write_pixels(root, images, broken=()):
    for image in images:
        path = root / image.get('filepath', '') / image['filename']
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (20, 10), (image['imgid'], 0, 200)).save(path)
        if image['imgid'] in broken:
            path.write_bytes(path.read_bytes()[:100])


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / 'dataset_coco.json', IMAGES)
    write_pixels(tmp_path, IMAGES)
    return tmp_path


def make(folder, **options):
    return FiberKarpathyDataset(ann_file='dataset_coco.json', data_root=str(folder), **options)


def texts(dataset):
    return [dataset.get_data_info(i)['text'] for i in range(len(dataset))]


def test_released_splits(folder):
    assert texts(make(folder)) == ['a cat', 'two cats', ' a car ']
    assert texts(make(folder, split='test')) == ['a dog', 'A dog.']
    assert texts(make(folder, restval=True)) == ['a cat', 'two cats', 'a bus', ' a car ']
    assert texts(make(folder, split=['val'])) == [' a car ']


def test_faulty_splits():
    with pytest.raises(ValueError, match=r"or a list of names such as \['val'\], got 'val'"):
        karpathy_splits('val')
    with pytest.raises(ValueError, match='restval'):
        karpathy_splits('test', restval=True)
    with pytest.raises(ValueError, match='restval'):
        karpathy_splits(['train'], restval=True)


def test_pairs(folder):
    info = make(folder).get_data_info(1)
    assert info['img_path'].endswith('val2014/COCO_val2014_000000000001.jpg')
    assert (info['image_id'], info['text_id']) == (1001, 101)
    assert (info['image_index'], info['sample_idx']) == (0, 1)
    assert make(folder).get_data_info(-1)['text_id'] == 300


def test_images_with_all_their_captions(folder):
    dataset = make(folder, per='image')
    assert len(dataset) == 2
    assert dataset.get_data_info(0)['text'] == ['a cat', 'two cats']
    assert dataset.get_data_info(0)['text_id'] == [100, 101]


def test_samples(folder):
    sample = make(folder, pipeline=PIPELINE)[2]
    assert sample['inputs'].shape == (3, 16, 16)
    assert sample['inputs'].float().mean((1, 2)).tolist() == pytest.approx([200, 0, 3], abs=2)
    packed = sample['data_samples']
    assert (packed.text, packed.image_id, packed.text_id) == (' a car ', 1003, 300)
    assert make(folder, pipeline=PIPELINE, per='image')[0]['data_samples'].text == [
        'a cat',
        'two cats',
    ]


def test_flickr30k(tmp_path):
    """No filepath and no cocoid there."""
    image = karpathy_image(5, 'train', ['a boy'])
    del image['filepath'], image['cocoid']
    image['filename'] = '1000092795.jpg'
    write(tmp_path / 'dataset_coco.json', [image, {**image, 'imgid': 6, 'split': 'val',
                                                   'sentences': [{'raw': 'a girl'}]}])  # fmt: skip
    dataset = make(tmp_path, data_prefix={'img_path': 'images'})
    assert dataset.get_data_info(0)['img_path'] == str(tmp_path / 'images' / '1000092795.jpg')
    assert [dataset.get_data_info(i)['image_id'] for i in (0, 1)] == [5, 6]
    assert dataset.get_data_info(1)['text_id'] == '6/0'  # no ids: image and place


def test_subsets_count_images(folder):
    assert texts(make(folder, indices=1)) == ['a cat', 'two cats']
    subset = make(folder).get_subset([1])
    assert texts(subset) == [' a car ']
    assert texts(make(folder, serialize_data=False)) == texts(make(folder))


def test_two_integers_per_caption_beside_one_array(folder):
    """No Python object per caption: what a worker copies does not grow with the captions."""
    dataset = make(folder)
    assert dataset.data_list == []
    assert dataset.data_bytes.dtype == np.uint8
    assert dataset._pairs.dtype == np.int32
    again = pickle.loads(pickle.dumps(dataset))
    assert texts(again) == texts(dataset)


def test_pair_index():
    assert pair_index([2, 0, 3]).tolist() == [[0, 0, 2, 2, 2], [0, 1, 0, 1, 2]]
    assert pair_index([]).shape == (2, 0)


FAULTY = [
    (
        [karpathy_image(1, 'train', ['a', ' '])],
        "caption 101 of image 1001 is ' ': empty caption",
        ['a'],
    ),
    (
        [karpathy_image(1, 'train', ['a']), karpathy_image(1, 'train', ['b'])],
        'doubled image id',
        ['a'],
    ),
    ([karpathy_image(1, 'train', [])], 'image 1001: image without caption', []),
    (
        [
            karpathy_image(1, 'train', ['a']),
            karpathy_image(2, 'train', ['b'], sentences=[{'raw': 'b', 'sentid': 100}]),
        ],
        'caption 100 of image 1002: doubled caption id',
        ['a'],
    ),
]


@pytest.mark.parametrize(('images', 'message', 'left'), FAULTY)
def test_faulty_annotations(tmp_path, images, message, left):
    good = [karpathy_image(7, 'train', ['good']), karpathy_image(8, 'val', ['good'])]
    write(tmp_path / 'dataset_coco.json', images + good)
    with pytest.raises(ValueError, match=f"{message}.*on_error='skip'"):
        make(tmp_path)
    dataset = make(tmp_path, on_error='skip')
    assert texts(dataset) == [*left, 'good', 'good']


def test_left_out_annotations_are_counted(tmp_path):
    images = [karpathy_image(1, 'train', ['a', '', 'a', 'b', '']), karpathy_image(2, 'val', [''])]
    write(tmp_path / 'dataset_coco.json', images)
    dataset = make(tmp_path, on_error='skip', lazy_init=True)
    checker = CaptionChecker('a.json', 'skip')
    assert [row['text'] for row in dataset.load_images(checker)] == [['a', 'b']]
    assert checker.left_out == {
        'empty caption': 3,
        'repeated captions of an image': 1,
        'image without caption': 1,
    }


def test_captions_without_ids(tmp_path):
    """Theirs are made up, and differ from image to image, as evaluation wants it."""
    sentences = [{'raw': 'a'}, {'raw': 'b'}, {'raw': 'a'}, {'raw': 'c'}]
    images = [karpathy_image(n, 'test', [], sentences=sentences) for n in (1, 2)]
    write(tmp_path / 'dataset_coco.json', images)
    dataset = make(tmp_path, split='test', per='image', test_mode=True)
    assert dataset.get_data_info(0)['text_id'] == ['1001/0', '1001/1', '1001/3']
    assert len(Gallery.of_dataset(dataset).text_ids) == 6


def test_missing_keys_of_an_image(tmp_path):
    for key in ('split', 'filename', 'imgid', 'sentences'):
        image = karpathy_image(2, 'train', ['a'])
        del image[key]
        write(tmp_path / 'dataset_coco.json', [*IMAGES, image])
        with pytest.raises(ValueError, match=rf"coco\.json: images\[4\] has no \['{key}'\], only"):
            make(tmp_path)


def test_no_such_split_and_missing_keys(tmp_path):
    write(tmp_path / 'dataset_coco.json', IMAGES[:1])
    with pytest.raises(ValueError, match=r"no image of the split \['train', 'val'\].*'test': 1"):
        make(tmp_path)
    (tmp_path / 'dataset_coco.json').write_text('[]')
    with pytest.raises(ValueError, match='images'):
        make(tmp_path)
    (tmp_path / 'dataset_coco.json').write_text('{"images": [')
    with pytest.raises(ValueError, match='no complete JSON'):
        make(tmp_path)


@pytest.mark.parametrize('broken', ['cut', 'missing'])
def test_unreadable_images(folder, broken):
    path = folder / 'val2014' / 'COCO_val2014_000000000001.jpg'
    if broken == 'cut':
        path.write_bytes(path.read_bytes()[:100])
    else:
        path.unlink()
    dataset = make(folder, pipeline=PIPELINE)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        dataset[1]
    assert 'image 1001 (sample 1)' in str(caught.value)
    assert str(path) in str(caught.value)
    assert dataset[2]['data_samples'].text == ' a car '

    dataset = make(folder, pipeline=PIPELINE, on_error='skip')
    assert [dataset[i]['data_samples'].text for i in range(3)] == [' a car '] * 3
    # sample 0 tried two, sample 1 one
    assert dataset.unreadable.total == 3
    assert 'image 1001' in dataset.unreadable.last


def test_data_that_is_not_there_at_all(folder):
    dataset = make(folder, pipeline=PIPELINE, on_error='skip', data_prefix={'img_path': 'no'})
    with pytest.raises(ValueError, match='none of 3 samples .*COCO_val2014_0000'):
        dataset[0]


def test_evaluation_skips_nothing(folder):
    with pytest.raises(ValueError, match='is for training'):
        make(folder, split='test', test_mode=True, on_error='skip')
    with pytest.raises(ValueError, match="'raise', 'skip'"):
        make(folder, on_error='ignore')
    with pytest.raises(ValueError, match="'caption', 'image'"):
        make(folder, per='pair')


def test_other_errors_are_not_skipped(folder):
    pipeline = [*LOAD, {'type': 'FiberPackImageText', 'algorithm_keys': ['question']}]
    with pytest.raises(KeyError, match='question'):
        make(folder, pipeline=pipeline, on_error='skip')[0]


def test_concatenated_sets_weigh_by_their_captions(folder):
    one = {'type': 'FiberKarpathyDataset', 'ann_file': 'dataset_coco.json', 'pipeline': PIPELINE,
           'data_root': str(folder)}  # fmt: skip
    both = DATASETS.build({'type': 'ConcatDataset', 'datasets': [one, {**one, 'split': 'test'}]})
    assert len(both) == 5
    assert both[4]['data_samples'].text == 'A dog.'


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ([{'image': 'a.jpg', 'caption': 'a'}], 'holds a list; wanted is an object with images'),
        ({'images': ['a.jpg']}, r"images\[0\]: an object is wanted, got 'a.jpg'"),
        ({'images': {'a': 1}}, 'images: a list of objects is wanted'),
        (
            {
                'images': [
                    dict(split='train', filename='a', imgid=1, sentences=['a dog']),
                    IMAGES[3],
                ]
            },
            r"images\[0\]\.sentences\[0\]: an object is wanted, got 'a dog'",
        ),
        (
            {'images': [dict(split='train', filename='a', imgid=1, sentences=None), IMAGES[3]]},
            'image 1: image without caption',
        ),
    ],
)
def test_another_kind_of_json(tmp_path, content, message):
    (tmp_path / 'dataset_coco.json').write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        FiberKarpathyDataset('dataset_coco.json', data_root=str(tmp_path))


# --- Visual Genome ---

REGIONS = [
    {
        'id': 1,
        'regions': [
            {'region_id': 11, 'image_id': 1, 'phrase': 'a clock', 'x': 1, 'y': 2, 'width': 3,
             'height': 4},
            {'region_id': 12, 'image_id': 1, 'phrase': 'a clock', 'x': 1, 'y': 2, 'width': 3,
             'height': 4},
            {'region_id': 13, 'image_id': 1, 'phrase': 'trees', 'x': 1, 'y': 2, 'width': 3,
             'height': 4},
        ],
    },
    {'id': 2, 'regions': [{'region_id': 21, 'image_id': 2, 'phrase': 'a wall'}]},
]  # fmt: skip


def test_visual_genome(tmp_path):
    (tmp_path / 'region_descriptions.json').write_text(json.dumps(REGIONS))
    options = {'ann_file': 'region_descriptions.json', 'data_root': str(tmp_path),
               'data_prefix': {'img_path': 'images'}}  # fmt: skip
    dataset = FiberVGCaptionDataset(**options)
    assert texts(dataset) == ['a clock', 'trees', 'a wall']
    assert dataset.get_data_info(2)['img_path'] == str(tmp_path / 'images' / '2.jpg')
    assert dataset.get_data_info(1)['text_id'] == 13

    address = 'https://example.com/rak248/VG_100K_2/1.jpg'
    (tmp_path / 'image_data.json').write_text(json.dumps([{'image_id': 1, 'url': address}]))
    with pytest.raises(ValueError, match='image 2 in .*image_data.json: captions without image'):
        FiberVGCaptionDataset(image_data='image_data.json', **options)
    dataset = FiberVGCaptionDataset(image_data='image_data.json', on_error='skip', **options)
    assert len(dataset) == 2
    assert dataset.get_data_info(0)['img_path'].endswith('images/VG_100K_2/1.jpg')


@pytest.mark.parametrize(
    ('regions', 'images', 'message'),
    [
        ([1, 2], None, r'rows\[0\]: an object is wanted, got'),
        ([dict(regions=[])], None, "no region_descriptions.json: a list of objects with 'id'"),
        ([dict(id=1, regions=['a'])], None, r'rows\[0\]\.regions\[0\]: an object is wanted'),
        (REGIONS, [dict(image_id=1)], "no image_data.json: .*'image_id' and 'url'"),
        (REGIONS, {'1': 'a'}, 'image_data.json: rows: a list of objects is wanted'),
    ],
)
def test_other_structures_than_those_of_visual_genome(tmp_path, regions, images, message):
    (tmp_path / 'regions.json').write_text(json.dumps(regions))
    (tmp_path / 'image_data.json').write_text(json.dumps(images))
    with pytest.raises(ValueError, match=message):
        FiberVGCaptionDataset(
            ann_file='regions.json',
            data_root=str(tmp_path),
            image_data='image_data.json' if images else None,
        )


def test_other_file_than_region_descriptions(tmp_path):
    (tmp_path / 'a.json').write_text('{"images": []}')
    with pytest.raises(ValueError, match='a list of objects is wanted'):
        FiberVGCaptionDataset(ann_file=str(tmp_path / 'a.json'))
