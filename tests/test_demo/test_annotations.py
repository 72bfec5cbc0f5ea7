import numpy as np
from shapes_fixture import shapes_root  # noqa: F401

from fiber_mm.demo import annotations


def test_detection(shapes_root):  # noqa: F811
    images = annotations.detection_images(shapes_root, 'val')
    seen, held_out = annotations.class_names(shapes_root)
    assert len(images) == 8
    assert (len(seen), len(held_out)) == (40, 8)
    for item in images:
        assert item.path.is_file()
        assert len(item.boxes) == len(item.names) >= 3
        assert set(item.names) <= {*seen, *held_out}
        assert (item.boxes[:, 2:] > item.boxes[:, :2]).all()
        assert item.boxes.max() <= 128


def test_captions(shapes_root):  # noqa: F811
    captions = annotations.caption_images(shapes_root, 'val')
    first = annotations.caption_numbers(shapes_root, 'val')
    assert len({captions[i].path for i in first}) == len(first) == 8
    for item in captions:
        assert set(item.labels) == set(range(len(item.spans)))
        for label, name in zip(item.labels, item.names):
            assert name == ' '.join(item.text[a:b] for a, b in item.spans[label])


def test_expressions(shapes_root):  # noqa: F811
    objects = {i.path: i for i in annotations.detection_images(shapes_root, 'val')}
    for item in annotations.expression_images(shapes_root, 'val'):
        assert item.boxes.shape == (1, 4)
        distance = np.abs(objects[item.path].boxes - item.boxes).sum(1).min()
        assert distance == 0  # what is meant is one of the image's objects
