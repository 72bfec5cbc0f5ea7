import json

import pytest

from fiber_mm.report import plot_curves, read_curves


def write(folder, rows):
    folder = folder / 'vis_data'
    folder.mkdir(parents=True)
    (folder / 'scalars.json').write_text('\n'.join(map(json.dumps, rows)))


def test_a_resumed_run_is_one_curve(tmp_path):
    write(
        tmp_path / '1',
        [
            {'lr': 0.1, 'loss': 3.0, 'step': 10},
            {'lr': 0.1, 'loss': 2.0, 'step': 20},
            {'coco/bbox_mAP': 0.1, 'step': 20},
        ],
    )
    write(tmp_path / '2', [{'lr': 0.1, 'loss': 1.5, 'step': 20}, {'loss': 1.0, 'step': 30}])
    curves = read_curves(tmp_path)
    assert curves.train['loss'] == [(10, 3.0), (20, 1.5), (30, 1.0)]
    assert curves.scores == {'coco/bbox_mAP': [(20, 0.1)]}


def test_no_run_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match='scalars.json'):
        read_curves(tmp_path)


def test_equal_input_gives_equal_pictures():
    lines = {'loss': [(1, 2.0), (2, 1.0)], 'one': [(1, 1.0)]}
    first = plot_curves('Loss', lines, dpi=40)
    assert first[:4] == b'\x89PNG'
    assert first == plot_curves('Loss', lines, dpi=40)
    assert first != plot_curves('Loss', {'loss': [(1, 2.0), (2, 1.5)]}, dpi=40)
