"""Annotation files and boxes."""

import pytest

from fiber_mm.datasets import annotations
from fiber_mm.datasets.annotations import (
    LeftOut,
    box_fault,
    check_box,
    group_annotations,
    has_valid_box,
    log_counts,
    read_json,
    read_json_lines,
)


def test_read_json(tmp_path):
    path = tmp_path / 'a.json'
    path.write_text('{"images": []}')
    assert read_json(str(path)) == {'images': []}
    with pytest.raises(ValueError, match=r"has no \['annotations'\], only \['images'\]"):
        read_json(str(path), ('images', 'annotations'))
    path.write_text('{"images": [')
    with pytest.raises(ValueError, match=r'a\.json is no complete JSON'):
        read_json(str(path))
    with pytest.raises(FileNotFoundError, match=r'no annotation file .*b\.json'):
        read_json(str(tmp_path / 'b.json'))


def test_read_json_lines(tmp_path):
    path = tmp_path / 'a.jsonl'
    path.write_text('{"a": 1}\n\n{"a": 2}\n')
    assert list(read_json_lines(str(path))) == [(f'{path}:1', {'a': 1}), (f'{path}:3', {'a': 2})]
    path.write_text('{"a": 1}\n{"a": ')
    with pytest.raises(ValueError, match=r'a\.jsonl:2 is no JSON object'):
        list(read_json_lines(str(path)))
    with pytest.raises(FileNotFoundError, match='no annotation file'):
        list(read_json_lines(str(tmp_path / 'b.jsonl')))


@pytest.mark.parametrize(
    'box', [[1, 2, 3], [1, 2, 3, float('nan')], [1, 2, float('inf'), 3], ['1', 2, 3, 4], None, {}]
)
def test_boxes_that_are_none(box):
    with pytest.raises(ValueError, match='annotation 7: the box .* is not four finite numbers'):
        check_box(box, 'annotation 7')


def test_box_faults():
    assert box_fault([0, 0, 5, 5], 10, 20) is None
    assert box_fault([-5, -5, 1, 1], 10, 20) is None  # a part is inside
    assert box_fault([3, 3, 3, 9], 10, 20) == 'of no area'
    assert box_fault([9, 3, 3, 9], 10, 20) == 'of no area'
    assert box_fault([20, 0, 25, 5], 10, 20) == 'outside its image'
    assert box_fault([0, -5, 5, 0], 10, 20) == 'outside its image'


def test_valid_boxes():
    assert has_valid_box([[0, 0, 1, 9], [0, 0, 2, 2]])
    assert not has_valid_box([[0, 0, 1, 9], [0, 0, 9, 1]])
    assert not has_valid_box([])


def test_what_is_left_out_is_logged_with_the_first_case(monkeypatch):
    logged = []
    monkeypatch.setattr(annotations, 'print_log', lambda text, logger: logged.append(text))
    left_out = LeftOut()
    left_out.add('boxes of no area', 'annotation 7')
    left_out.add('boxes of no area', 'annotation 9')
    left_out['crowd boxes'] += 1
    log_counts('a.json', 5, left_out)
    log_counts('b.json', 5, LeftOut())
    assert logged == [
        'a.json: 5 samples; left out: 2 boxes of no area (first: annotation 7), 1 crowd boxes',
        'b.json: 5 samples; left out: nothing',
    ]


def test_grouping():
    content = {
        'images': [{'id': 5}, {'id': 2}],
        'annotations': [{'id': 0, 'image_id': 5}, {'id': 1, 'image_id': 5}],
    }
    images, annotations = group_annotations(content, 'a.json', ('id',), ('image_id',))
    assert [image['id'] for image in images] == [2, 5]
    assert [annotation['id'] for annotation in annotations[5]] == [0, 1]
    content['annotations'].append({'id': 2, 'image_id': 9})
    with pytest.raises(ValueError, match='annotation 2 belongs to the image 9'):
        group_annotations(content, 'a.json', ('id',), ('image_id',))
    with pytest.raises(ValueError, match='several images have the id 2'):
        group_annotations({'images': [{'id': 2}] * 2, 'annotations': []}, 'a.json', ('id',))
    with pytest.raises(ValueError, match=r'image number 0 \(id 5\) has no height, width, only id'):
        group_annotations(content, 'a.json')
