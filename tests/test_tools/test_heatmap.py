"""tools/heatmap.py, and the evaluation of heatmaps by tools/test.py, on fresh weights."""

from __future__ import annotations

import re

import pytest
import torch
from PIL import Image
from shapes_fixture import shapes_root  # noqa: F401
from tool_loader import load_tool

from fiber_mm.config_lookup import get_config, get_config_path
from fiber_mm.registry import MODELS, init_default_scope

COARSE = 'pretrain/fiber_nano_1xb32_1k_shapes'
EVALUATION = 'fiber_nano_heatmap_shapes'


@pytest.fixture
def checkpoint(tmp_path):
    init_default_scope('mmpretrain')
    path = tmp_path / 'coarse.pth'
    torch.save(dict(state_dict=MODELS.build(get_config(COARSE).model).state_dict()), path)
    return str(path)


def test_draws_a_picture(shapes_root, checkpoint, tmp_path, capsys):  # noqa: F811
    image = sorted((shapes_root / 'val').iterdir())[0]
    tokenizer = f'model.data_preprocessor.tokenizer={shapes_root / "tokenizer"}'
    rest = ['--model', COARSE, '--checkpoint', checkpoint, '--cfg-options', tokenizer]
    out = tmp_path / 'new' / 'map.png'
    words = ['--text', 'a red circle above a star', '--phrase', 'red circle', '--phrase', 'star']
    load_tool('heatmap').main([str(image), *words, '--blocks', '0', '-1', '--out', str(out), *rest])
    assert Image.open(out).width > 3 * 320
    printed = capsys.readouterr().out
    assert re.search(r'^red circle: x \d+, y \d+$', printed, re.MULTILINE)
    assert re.search(r'^star: x \d+, y \d+$', printed, re.MULTILINE)
    with pytest.raises(SystemExit, match="error: .*'blue ring' is not in the caption"):
        load_tool('heatmap').main([str(image), *words, '--phrase', 'blue ring', *rest])
    for wrong in ([], [*words, '--blocks', 'first']):
        with pytest.raises(SystemExit):
            load_tool('heatmap').parse_args([str(image), *wrong, *rest])


@pytest.mark.parametrize('method', ['attention', 'gradient'])
def test_evaluation(shapes_root, checkpoint, tmp_path, method):  # noqa: F811
    options = [
        f'test_dataloader.dataset.data_root={shapes_root}',
        'test_dataloader.num_workers=0',
        'test_dataloader.persistent_workers=False',
        f'model.model.data_preprocessor.tokenizer={shapes_root / "tokenizer"}',
        f'model.method={method}',
        'model.blocks=all',
        'model.direction=both',
    ]
    config = str(get_config_path(EVALUATION))
    metrics = load_tool('test').main(
        [config, checkpoint, '--work-dir', str(tmp_path / 'run'), '--cfg-options', *options]
    )
    scores = ['pointing', 'pointing_chance', 'pointing_centre', 'box_recall_image', 'no_peak']
    scores += [f'box_recall@{t}' for t in (0.3, 0.5, 0.7)]
    groups = ['', '_flickr', '_seen', '_unseen']
    assert set(metrics) == {f'heatmap/{score}{group}' for score in scores for group in groups}
    assert all(0 <= value <= 1 for value in metrics.values())
    assert metrics['heatmap/no_peak'] == 0  # gates start open: the match score has a gradient
    assert 0.02 < metrics['heatmap/pointing_chance'] < 0.5
