import numpy as np
import pytest
import torch
from PIL import Image
from shapes_fixture import shapes_root  # noqa: F401

from fiber_mm.apis import FiberHeatmap, init_grounder
from fiber_mm.apis.heatmap import phrase_spans
from fiber_mm.config_lookup import get_config
from fiber_mm.engine import CheckpointError
from fiber_mm.registry import MODELS, init_default_scope

COARSE = 'pretrain/fiber_nano_1xb32_1k_shapes'
EVALUATION = 'fiber_nano_heatmap_shapes'
DETECTOR = 'fiber_nano_1xb8_demo_shapes'
CAPTION = 'a red circle above two blue rings'


@pytest.fixture(scope='module')
def options(shapes_root):  # noqa: F811
    return {'model.data_preprocessor.tokenizer': str(shapes_root / 'tokenizer')}


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """Fresh weights with open gates."""
    torch.manual_seed(0)
    init_default_scope('mmpretrain')
    model = MODELS.build(get_config(COARSE).model)
    state = model.state_dict()
    for name, value in state.items():
        if 'alpha' in name:
            value.fill_(0.5)
    path = tmp_path_factory.mktemp('weights') / 'coarse.pth'
    torch.save(dict(state_dict=state), path)
    return path


@pytest.fixture(scope='module')
def heatmap(options, checkpoint):
    return FiberHeatmap(COARSE, checkpoint, device='cpu', cfg_options=options)


@pytest.fixture
def path(shapes_root):  # noqa: F811
    return str(sorted((shapes_root / 'val').iterdir())[0])


def check(maps, count, size=(128, 128)):
    assert maps.shape == (count, *size)
    assert maps.dtype == np.float32
    assert maps.min() == 0
    assert np.allclose(maps.max((1, 2)), 1)


def test_phrases_of_a_caption(heatmap, path):
    seen = heatmap(path, CAPTION, ['red circle', 'Blue rings'])
    check(seen.maps, 2)
    assert seen.phrases == ['red circle', 'blue rings']
    assert seen.caption == CAPTION
    np.testing.assert_array_equal(seen.image, np.asarray(Image.open(path)))
    spans = heatmap(path, CAPTION, spans=[[[2, 12]], [[23, 33]]])
    np.testing.assert_allclose(spans.maps, seen.maps, atol=1e-5)
    one = heatmap(path, CAPTION, 'red circle')
    np.testing.assert_allclose(one.maps, seen.maps[:1], atol=1e-5)
    assert heatmap(path, CAPTION).phrases == ['a red circle', 'two blue rings']
    assert heatmap(path, CAPTION, spans=-1).phrases == [CAPTION]


def test_free_phrases(heatmap, path):
    seen = heatmap(path, phrases=['red circle', 'two blue rings'])
    check(seen.maps, 2)
    assert seen.caption == ''
    for phrase, maps in zip(seen.phrases, seen.maps):
        alone = heatmap(path, phrase, spans=-1)
        np.testing.assert_allclose(alone.maps[0], maps, atol=1e-3)


def test_a_model_in_training_goes_on_so(heatmap, path):
    model = heatmap.model.model
    wanted = heatmap(path, CAPTION).maps
    for training in (True, False):
        model.train(training)
        np.testing.assert_array_equal(FiberHeatmap(model)(path, CAPTION).maps, wanted)
        assert model.training == model.encoder.training == training


def test_any_kind_of_image(heatmap, path):
    image = Image.open(path)
    wanted = heatmap(path, CAPTION, 'red circle').maps
    bgr = np.ascontiguousarray(np.asarray(image)[..., ::-1])
    for other in (image, bgr):
        np.testing.assert_allclose(heatmap(other, CAPTION, 'red circle').maps, wanted, atol=1e-5)
    check(heatmap(image.resize((90, 50)), CAPTION, 'red circle').maps, 1, (50, 90))


def test_methods_and_configs(options, checkpoint, path):
    gradient = FiberHeatmap(COARSE, checkpoint, 'gradient', 'all', 'both', 'cpu', options)
    maps = gradient(path, CAPTION, 'red circle').maps
    check(maps, 1)
    nested = {f'model.{key}': value for key, value in options.items()}
    evaluation = FiberHeatmap(EVALUATION, checkpoint, 'gradient', 'all', 'both', 'cpu', nested)
    np.testing.assert_allclose(evaluation(path, CAPTION, 'red circle').maps, maps, atol=1e-3)


def test_detectors(options, path):
    """Images are padded there, at the right and at the bottom."""
    model = init_grounder(DETECTOR, None, 'cpu', options)
    heatmap = FiberHeatmap(model)
    image = Image.open(path).crop((0, 0, 128, 75))
    seen = heatmap(image, CAPTION, ['red circle', 'two blue rings'])
    check(seen.maps, 2, (75, 128))
    with pytest.raises(ValueError, match="FiberGrounder has no ITM head.*method='attention'"):
        FiberHeatmap(model, method='gradient')


def test_padding_maps_back_to_the_pixels_of_the_image(options, path):
    """A cell's attention shows where the cell lies in the original, unpadded image."""
    model = init_grounder(DETECTOR, None, 'cpu', options)
    heatmap = FiberHeatmap(model, direction='t2i')
    # 80 x 128 becomes 192 x 307, padded to 192 x 320: 6 x 10 cells of 32 pixels.
    image = Image.open(path).crop((0, 0, 128, 80))
    shapes = []
    inside = heatmap.model.heatmaps

    def watch(trunk, prompts, frames):
        shapes.append((tuple(trunk.tokens.shape[1:3]), frames[0]))
        return inside(trunk, prompts, frames)

    heatmap.model.heatmaps = watch
    heatmap(image, CAPTION, 'red circle')
    assert shapes == [((12, 20), ((192, 307), (80, 128)))]


def test_draw(heatmap, path):
    picture = heatmap.draw(path, CAPTION, ['red circle', 'blue rings'])
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    boxed = heatmap.draw(
        path, CAPTION, ['red circle', 'blue rings'], boxes=[[(5, 5, 60, 60)], [(9, 9, 20, 20)]]
    )
    assert boxed.shape == picture.shape
    assert (boxed != picture).any()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('', 'red circle'), 'the prompt is empty'),
        (('  ',), 'the prompt is empty'),
        ((None,), 'give a caption, phrases, or both'),
        ((CAPTION, 'green star'), "'green star' is not in the caption 'a red circle"),
        ((CAPTION, 'ring'), 'not in the caption'),  # but "rings"
        ((CAPTION, ['red circle', ' ']), 'a phrase is empty'),
        ((CAPTION, []), 'no phrase is given'),
        ((None, ['red circle', '']), 'the prompt is empty'),
        ((CAPTION, 'red circle', [[[2, 12]]]), 'say the same'),
        ((CAPTION, None, [[[2, 99]]]), 'lies outside the caption of 33'),
        ((CAPTION, None, [[[12, 2]]]), 'reversed or empty'),
        (('a     b', None, [[[2, 3]]]), 'covers no token'),
        (('red circle ' * 30, None, [[[310, 320]]]), 'the limit is 40'),
    ],
)
def test_faulty_texts(heatmap, path, arguments, message):
    with pytest.raises(ValueError, match=message):
        heatmap(path, *arguments)


def test_faulty_input(heatmap, path, tmp_path, options, checkpoint):
    with pytest.raises(TypeError, match='a phrase must be a string, got int'):
        heatmap(path, CAPTION, [5])
    with pytest.raises(TypeError, match='phrases must be strings, got 5'):
        heatmap(path, CAPTION, 5)
    with pytest.raises(TypeError, match='pairs'):
        heatmap(path, CAPTION, spans=[[2, 12]])
    with pytest.raises(FileNotFoundError, match='nowhere.jpg'):
        heatmap('nowhere.jpg', CAPTION)
    with pytest.raises(ValueError, match='goes with a config'):
        FiberHeatmap(heatmap.model.model, checkpoint)
    with pytest.raises(ValueError, match='FiberPretrain has no cfg'):
        FiberHeatmap(MODELS.build(get_config(COARSE).model))
    cfg = get_config(COARSE)
    cfg.val_dataloader, cfg.test_dataloader = None, None
    cfg.train_dataloader.dataset.pipeline.insert(1, dict(type='FiberRandAugment'))
    with pytest.raises(ValueError, match='at random .FiberRandAugment.: add a test_dataloader'):
        FiberHeatmap(cfg, checkpoint, cfg_options=options)


def test_a_checkpoint_without_the_itm_head(tmp_path, options, checkpoint):
    content = torch.load(checkpoint, weights_only=True)
    content['state_dict'] = {
        key: value for key, value in content['state_dict'].items() if 'itm_score' not in key
    }
    torch.save(content, tmp_path / 'itc.pth')
    settings = dict(device='cpu', cfg_options=options)
    with pytest.raises(CheckpointError, match="method='gradient' needs the trained ITM head"):
        FiberHeatmap(COARSE, tmp_path / 'itc.pth', 'gradient', **settings)
    cfg = get_config(COARSE)
    cfg.model.losses = ('itc', 'mlm')
    with pytest.raises(ValueError, match='FiberPretrain has no ITM head'):
        FiberHeatmap(cfg, None, 'gradient', **settings)


def test_where_phrases_stand():
    assert phrase_spans('a red ring and a Red ring', 'red ring') == [[2, 10], [17, 25]]
    assert phrase_spans('rings (two)', '(two)') == [[6, 11]]
