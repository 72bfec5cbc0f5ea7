"""mmdet's DetInferencer on our config: class lists, captions, spans, arrays, drawings."""

import mmcv
import pytest
import torch
from mmdet.apis import DetInferencer
from mmdet.structures import DetDataSample

from fiber_mm.apis.inference import ground

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
