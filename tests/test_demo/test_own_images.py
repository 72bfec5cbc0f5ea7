import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from shapes_fixture import shapes_root  # noqa: F401
from tool_loader import load_tool

from fiber_mm.apis import init_grounder
from fiber_mm.demo.own_images import ground_files, load_model
from fiber_mm.demo.settings import CONFIG, DemoSettings


@pytest.fixture(scope='module')
def model(shapes_root):  # noqa: F811
    torch.manual_seed(0)
    options = {
        'model.data_preprocessor.tokenizer': str(shapes_root / 'tokenizer'),
        'model.test_cfg.score_thr': 0.0,
    }
    return init_grounder(CONFIG, None, 'cpu', options)


def test_pictures_and_numbers_are_written(model, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (90, 120), dtype=np.uint8)
    files = {
        'grey.png': Image.fromarray(noise),
        'deep.png': Image.fromarray(noise.astype(np.uint16) * 256),
        'rgba.png': Image.fromarray(np.dstack([noise] * 4)),
        'palette.gif': Image.fromarray(noise).convert('P'),
    }
    rotated = Image.fromarray(noise)
    exif = rotated.getexif()
    exif[0x0112] = 6  # shown turned by a quarter
    for name, image in files.items():
        image.save(tmp_path / name)
    rotated.save(tmp_path / 'turned.jpg', exif=exif)
    names = [str(tmp_path / name) for name in (*files, 'turned.jpg')]
    out = tmp_path / 'out'
    rows = ground_files(model, names, ['red circle .', 'a star'], out, score_thr=0.0)
    assert len(rows) == 10
    assert json.loads((out / 'results.json').read_text()) == rows
    for row in rows:
        picture = Image.open(row['picture'])
        portrait = 'turned' in row['image']
        assert (picture.height > picture.width) == portrait
        assert row['detections']
        x2 = max(found['box'][2] for found in row['detections'])
        assert x2 <= (90 if portrait else 120)
    assert len({row['picture'] for row in rows}) == 10


def test_without_a_demo_it_says_what_to_do(tmp_path):
    settings = DemoSettings(work_dir=tmp_path)
    with pytest.raises(FileNotFoundError, match='make demo'):
        load_model(None, None, settings)
    with pytest.raises(ValueError, match='--config is given without --checkpoint'):
        load_model(CONFIG, None, settings)


@pytest.mark.slow
def test_the_trained_model_looks_at_own_images(finished, copied):
    """By the command line, also after the demo's folder has moved."""
    work_dir = copied().work_dir
    image = next((finished[0].work_dir.parent / 'shapes' / 'val').glob('*.jpg'))
    asked = ['--work-dir', str(work_dir), '--image', str(image), '--score-thr', '0']
    main = load_tool('demo').main
    main([*asked, '--text', 'red circle . blue square', '--text', 'a red circle'])
    rows = json.loads((work_dir / 'own' / 'results.json').read_text())
    assert [row['text'] for row in rows] == ['red circle . blue square', 'a red circle']
    for row in rows:
        assert Path(row['picture']).is_file()
        assert {found['name'] for found in row['detections']} <= {
            'red circle', 'blue square', 'a red circle',
        }  # fmt: skip
    for spans, message in (('[[0, 5]]', 'list of pairs'), ('{"a": [[0, 1]]}', 'are labels')):
        with pytest.raises(SystemExit, match=message):
            main([*asked, '--text', 'a red circle', '--tokens-positive', spans])
