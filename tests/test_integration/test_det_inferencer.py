"""mmdet's DetInferencer on our config: class lists, captions, spans, arrays, drawings."""

import os
from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch
from mmdet.apis import DetInferencer
from mmdet.structures import DetDataSample
from PIL import Image
from tokenizer_fixture import tokenizer_dir  # noqa: F401

from fiber_mm.apis.inference import ground
from fiber_mm.datasets.transforms import read_image
from fiber_mm.engine import CheckpointError

CAPTION = 'a red circle left of the small blue square'
SPANS = [[[0, 12]], [[25, 42]]]
CLASSES = 'red circle. blue square. green star'


@pytest.fixture
def inferencer(nano_cfg, checkpoint):
    return DetInferencer(nano_cfg, checkpoint, device='cpu', show_progress=False)


def found(inferencer, inputs, **settings) -> list[DetDataSample]:
    result = inferencer(inputs, return_datasamples=True, **settings)
    return [sample.pred_instances for sample in result['predictions']]


def test_texts_in_all_forms(inferencer, photo):
    (classes,) = found(inferencer, photo, texts=CLASSES, custom_entities=True)
    names = CLASSES.split('. ')
    assert len(classes) > 0
    assert classes.label_names == [names[label] for label in classes.labels.tolist()]

    (phrases,) = found(inferencer, photo, texts=CAPTION)
    assert set(phrases.label_names) <= {'a red circle', 'the small blue square'}

    (spans,) = found(inferencer, photo, texts=CAPTION, tokens_positive=SPANS)
    assert set(spans.label_names) <= {'a red circle', 'small blue square'}

    (whole,) = found(inferencer, photo, texts=CAPTION, tokens_positive=-1)
    assert set(whole.label_names) == {CAPTION}


def test_gives_what_the_model_gives(inferencer, model, nano_cfg, photo):
    model.cfg = nano_cfg
    wanted = ground(model, mmcv.imread(photo), CAPTION, SPANS).pred_instances
    (seen,) = found(inferencer, mmcv.imread(photo), texts=CAPTION, tokens_positive=SPANS)
    assert seen.label_names == wanted.label_names
    torch.testing.assert_close(seen.scores, wanted.scores)
    torch.testing.assert_close(seen.bboxes, wanted.bboxes)


def test_batches_plain_numbers_and_drawings(inferencer, photo, tmp_path):
    result = inferencer(
        [photo, photo],
        texts=[CLASSES, 'pink ring'],
        custom_entities=True,
        batch_size=2,
        out_dir=str(tmp_path),
        no_save_pred=False,
        return_vis=True,
        pred_score_thr=0.0,
    )
    first, second = result['predictions']
    assert set(second['labels']) == {0}
    assert len(first['bboxes']) == len(first['scores']) == len(first['labels']) > 0
    assert all(isinstance(score, float) for score in first['scores'])
    assert list((tmp_path / 'vis').glob('*.jpg'))
    assert list((tmp_path / 'preds').glob('*.json'))
    drawing, original = result['visualization'][0], mmcv.imread(photo)[..., ::-1]
    assert drawing.shape == original.shape
    assert (drawing != original).any()


def test_no_text_is_an_error(inferencer, photo):
    with pytest.raises(KeyError, match='texts='):
        inferencer(photo)


def test_drawings_show_the_names(inferencer, photo, monkeypatch):
    written = []
    visualizer = inferencer.visualizer
    draw_texts = visualizer.draw_texts

    def recorded(texts, *args, **kwargs):
        written.append(texts)
        return draw_texts(texts, *args, **kwargs)

    monkeypatch.setattr(visualizer, 'draw_texts', recorded)
    inferencer(photo, texts='pink ring', custom_entities=True, return_vis=True, pred_score_thr=0.0)
    assert written
    assert all(text.startswith('pink ring') for text in written)


# -- faulty input --


@pytest.mark.parametrize('damage', ['empty', 'truncated', 'no image', 'missing'])
def test_faulty_image_is_named(inferencer, photo, tmp_path, damage):
    content = Path(photo).read_bytes()
    file = tmp_path / 'photo.jpg'
    if damage != 'missing':
        file.write_bytes(
            {'empty': b'', 'truncated': content[: len(content) // 2], 'no image': b'text'}[damage]
        )
    with pytest.raises((ValueError, FileNotFoundError), match=r'photo\.jpg'):
        inferencer(str(file), texts=CLASSES, custom_entities=True)


def test_images_are_read_as_a_person_sees_them(inferencer, model, nano_cfg, tmp_path):
    """Transparent on white paper, 16 bits, palette, CMYK, grey, and rotated by EXIF."""
    model.cfg = nano_cfg
    pixels = np.random.default_rng(0).integers(0, 255, (60, 90, 4), dtype=np.uint8)
    image = Image.fromarray(pixels)
    turned = Image.Exif()
    turned[0x0112] = 6
    variants = {
        'clear.png': image,
        'deep.png': Image.fromarray(pixels[..., 0].astype(np.uint16) * 256),
        'palette.png': image.convert('RGB').convert('P'),
        'cmyk.jpg': image.convert('CMYK'),
        'grey.png': image.convert('L'),
        'turned.jpg': image.convert('RGB'),
    }
    for name, variant in variants.items():
        file = tmp_path / name
        variant.save(file, **(dict(exif=turned) if name == 'turned.jpg' else {}))
        (seen,) = found(inferencer, str(file), texts=CAPTION, tokens_positive=SPANS)
        wanted = ground(model, str(file), CAPTION, SPANS).pred_instances
        torch.testing.assert_close(seen.bboxes, wanted.bboxes)
        torch.testing.assert_close(seen.scores, wanted.scores)
    assert read_image(str(tmp_path / 'turned.jpg')).shape == (90, 60, 3)


@pytest.mark.parametrize('size', [(1, 1), (8000, 20), (20, 8000)])
def test_extreme_sizes(inferencer, tmp_path, size):
    Image.new('RGB', size, (200, 30, 30)).save(tmp_path / 'odd.png')
    (seen,) = found(inferencer, str(tmp_path / 'odd.png'), texts=CLASSES, custom_entities=True)
    assert torch.isfinite(seen.bboxes).all()


@pytest.mark.parametrize(
    ('texts', 'settings', 'message'),
    [
        ('', dict(custom_entities=True), 'the prompt is empty'),
        ('red. . blue', dict(custom_entities=True), 'class name number 1 of .* is empty'),
        ('red. red', dict(custom_entities=True), 'is the same as'),
        (CAPTION, dict(tokens_positive=[[[0, 99]]]), 'outside the caption'),
        (CAPTION, dict(tokens_positive=[[[1, 2]]]), 'covers no token'),
    ],
)
def test_faulty_text_is_named(inferencer, photo, texts, settings, message):
    with pytest.raises(ValueError, match=message):
        inferencer(photo, texts=texts, **settings)


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_faulty_checkpoints_are_refused(nano_cfg, model, photo, tmp_path):
    file = tmp_path / 'weights.pth'

    def refused(content, message):
        torch.save(content, file)
        with pytest.raises(CheckpointError, match=message):
            DetInferencer(nano_cfg, str(file), device='cpu', show_progress=False)

    weights = model.state_dict()
    refused(dict(state_dict=weights, extra=Evil(str(tmp_path / 'ran'))), 'weights.pth was refused')
    assert not (tmp_path / 'ran').exists()
    renamed = dict(weights)
    renamed['bbox_head.bbox_prod.bias'] = renamed.pop('bbox_head.bbox_pred.bias')
    refused(dict(state_dict=renamed), '1 unknown: bbox_head.bbox_prod.bias')
    refused(dict(state_dict={'encoder.image.norm.weight': torch.ones(1)}), '1 unknown')
    other_size = {**weights, 'bbox_head.bbox_pred.bias': torch.zeros(5)}
    refused(dict(state_dict=other_size), r'1 of another shape: bbox_head.bbox_pred.bias: \(5,\)')
    torch.save(dict(state_dict=weights), file)
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match='truncated'):
        DetInferencer(nano_cfg, str(file), device='cpu', show_progress=False)

    # Weights that are missing may be wanted fresh, for training, but not for predicting.
    renamed.pop('bbox_head.bbox_prod.bias')
    torch.save(dict(state_dict=renamed), file)
    inferencer = DetInferencer(nano_cfg, str(file), device='cpu', show_progress=False)
    with pytest.raises(CheckpointError, match='1 missing: bbox_head.bbox_pred.bias'):
        inferencer(photo, texts=CLASSES, custom_entities=True)


def test_tokenizer_that_does_not_fit_is_named(nano_cfg, checkpoint, photo, tokenizer_dir):  # noqa: F811
    nano_cfg.model.data_preprocessor.tokenizer = str(tokenizer_dir)
    with pytest.raises(ValueError, match=r'has \d+ tokens, the model has word embeddings for'):
        DetInferencer(nano_cfg, checkpoint, device='cpu', show_progress=False)(photo, texts=CLASSES)
