import numpy as np
import pytest
import torch
from PIL import Image
from shapes_fixture import shapes_root  # noqa: F401

from fiber_mm.apis import EncodedImage, encode_image, ground, init_grounder
from fiber_mm.apis.inference import lists_classes
from fiber_mm.engine import CheckpointError

CONFIG = 'fiber_nano_1xb8_demo_shapes'


@pytest.fixture(scope='module')
def options(shapes_root):  # noqa: F811
    return {
        'model.data_preprocessor.tokenizer': str(shapes_root / 'tokenizer'),
        'model.test_cfg.score_thr': 0.0,  # fresh weights are sure of nothing
        'model.test_cfg.max_per_img': 20,
    }


@pytest.fixture(scope='module')
def model(options):
    torch.manual_seed(0)
    return init_grounder(CONFIG, None, 'cpu', options)


@pytest.fixture
def path(shapes_root):  # noqa: F811
    return str(sorted((shapes_root / 'val').iterdir())[0])


def same(a, b):
    a, b = a.pred_instances, b.pred_instances
    assert len(a) > 0
    assert a.label_names == b.label_names
    torch.testing.assert_close(a.bboxes, b.bboxes)
    torch.testing.assert_close(a.scores, b.scores)


def test_classes(model, path):
    found = ground(model, path, 'red circle . blue ring').pred_instances
    assert set(found.label_names) <= {'red circle', 'blue ring'}
    assert len(found) == 20
    assert (found.scores[:-1] >= found.scores[1:]).all()
    assert found.bboxes.min() >= 0
    assert found.bboxes.max() <= 128  # of the image as it is, not as the model sees it
    same(
        ground(model, path, 'red circle . blue ring'),
        ground(model, path, ['red circle', 'blue ring']),
    )


def test_captions(model, path):
    caption = 'a red circle above two blue rings'
    found = ground(model, path, caption).pred_instances
    assert set(found.label_names) <= {'a red circle', 'two blue rings'}
    given = ground(model, path, caption, tokens_positive=[[[2, 12]], [[23, 33]]])
    assert set(given.pred_instances.label_names) <= {'red circle', 'blue rings'}
    whole = ground(model, path, caption, tokens_positive=-1)
    assert set(whole.pred_instances.label_names) == {caption}


def test_an_encoded_image_serves_many_texts(model, path):
    seen = encode_image(model, path)
    assert isinstance(seen, EncodedImage)
    calls = []
    handle = model.backbone.encoder.image.patch_embed.register_forward_hook(
        lambda *_: calls.append(1)
    )
    shared = [ground(model, seen, text) for text in ('red star .', 'a blue ring', 'red star .')]
    handle.remove()
    assert not calls
    same(shared[0], ground(model, path, 'red star .'))
    same(shared[1], ground(model, path, 'a blue ring'))
    same(shared[0], shared[2])


def test_a_preprocessor_of_ones_own(model, path, monkeypatch):
    """A subclass prepares the pixels of an image without a text, too."""
    preprocessor = model.data_preprocessor
    wanted = encode_image(model, path).trunk.tokens
    mine = type('Mine', (type(preprocessor),), {})
    monkeypatch.setattr(preprocessor, '__class__', mine)
    assert torch.equal(encode_image(model, path).trunk.tokens, wanted)


def test_any_kind_of_image(model, path):
    image = Image.open(path)
    bgr = np.ascontiguousarray(np.asarray(image)[..., ::-1])
    results = ground(model, [path, image, bgr], 'red circle .')
    same(results[0], results[1])
    same(results[0], results[2])
    deep = Image.fromarray(np.asarray(image.convert('L')).astype(np.uint16) * 257)
    same(ground(model, image.convert('L'), 'red circle .'), ground(model, deep, 'red circle .'))


def test_score_threshold(model, path):
    everything = ground(model, path, 'red circle .').pred_instances
    threshold = float(everything.scores[4])
    some = ground(model, path, 'red circle .', score_thr=threshold).pred_instances
    assert len(some) == int((everything.scores >= threshold).sum())
    assert len(some.label_names) == len(some) < len(everything)


def test_faulty_input(model, path, tmp_path):
    with pytest.raises(FileNotFoundError, match='nowhere.jpg'):
        ground(model, 'nowhere.jpg', 'red circle .')
    broken = tmp_path / 'broken.jpg'
    broken.write_bytes(b'no image')
    with pytest.raises(ValueError, match='broken.jpg'):
        ground(model, str(broken), 'red circle .')
    with pytest.raises(ValueError, match=r'\(H, W, 3\).*\(4, 4\)'):
        ground(model, np.zeros((4, 4), np.uint8), 'red circle .')
    with pytest.raises(ValueError, match=r'\(0, 4, 3\)'):
        ground(model, np.zeros((0, 4, 3), np.uint8), 'red circle .')
    with pytest.raises(TypeError, match='NoneType'):
        ground(model, None, 'red circle .')
    with pytest.raises(TypeError, match='a list of class names, got 5'):
        ground(model, path, 5)
    with pytest.raises(TypeError, match='a list of class names, got {'):
        ground(model, path, {'0': 'red'})
    with pytest.raises(ValueError, match='spans of a caption, but text is a list of class names'):
        ground(model, path, ['red'], tokens_positive=[[(0, 3)]])


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', 'the prompt is empty'),
        (' . ', 'the prompt is empty'),
        ([], 'the prompt is empty'),
        (['red', ' '], "class name ' ' is empty"),
        ('red . . blue', 'class name number 1 of .* is empty'),
        (['red', 'red'], "class name 'red' .* is the same"),
        ('red . red', "class name 'red' .* is the same"),
        ('a ' * 400, r'reaches over \d+ tokens of the caption, the limit is 256'),
        (['a ' * 400, 'b'], r'\(800 characters\) alone has \d+ tokens'),
    ],
)
def test_faulty_texts(model, path, text, message):
    with pytest.raises(ValueError, match=message) as error:
        ground(model, path, text)
    assert path in str(error.value)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize('span', [(0, 99), (-2, 3), (4, 4), (5, 2), (1, 2)])
def test_faulty_spans(model, path, span):
    with pytest.raises(ValueError, match=r'phrase'):
        ground(model, path, 'a red circle', tokens_positive=[[span]])


def test_weights_are_loaded_and_checked(model, options, tmp_path, path):
    file = tmp_path / 'model.pth'
    torch.save({'state_dict': model.state_dict()}, file)
    loaded = init_grounder(CONFIG, file, 'cpu', options)
    same(ground(model, path, 'red circle .'), ground(loaded, path, 'red circle .'))
    weights = model.state_dict()
    weights['bbox_head.bbox_prod.weight'] = weights.pop('bbox_head.bbox_pred.weight')
    torch.save({'state_dict': weights}, file)
    with pytest.raises(CheckpointError, match='bbox_prod'):
        init_grounder(CONFIG, file, 'cpu', options)
    with pytest.raises(FileNotFoundError, match='fiber_nano'):
        init_grounder('fiber_nano_1xb8_demo_shape', None)


def test_which_texts_list_classes():
    assert lists_classes('red circle . blue ring')
    assert lists_classes('red circle .')
    assert not lists_classes('A red circle. It is small.')
    assert not lists_classes('a red circle')
