"""Maps of a small model: settings, gradients, checkpoints, batches."""

import copy
from contextlib import contextmanager

import pytest
import torch
from mmdet.structures import DetDataSample
from tokenizer_fixture import tokenizer_dir  # noqa: F401
from torch._subclasses.fake_tensor import FakeTensorMode

from fiber_mm.core.recording import CrossAttention, record_cross_attention
from fiber_mm.engine.checkpoint import CheckpointError, load_weights
from fiber_mm.models.data_preprocessors.text import TokenizedPrompt
from fiber_mm.models.multimodal.heatmap import FiberHeatmapModel, Frame
from fiber_mm.models.utils.heatmaps import combine, phrase_maps, to_pixels, token_maps
from fiber_mm.registry import MODELS
from fiber_mm.structures import ImageTrunk

from .toy import ENCODER

CAPTION = 'a red circle left of the small blue square'
SPANS = [[[2, 12]], [[31, 42]]]


@pytest.fixture
def config(tokenizer_dir):  # noqa: F811
    from transformers import AutoTokenizer

    size = len(AutoTokenizer.from_pretrained(tokenizer_dir))
    cfg = copy.deepcopy(dict(ENCODER, type='FiberPretrain'))
    cfg['roberta'].update(vocab_size=size, max_position_embeddings=42)
    cfg['data_preprocessor'] = dict(
        type='FiberImageTextPreprocessor',
        tokenizer=tokenizer_dir,
        max_tokens=40,
        mean=[103.53, 116.28, 123.675],
        std=[57.375, 57.12, 58.395],
    )
    return cfg


@pytest.fixture
def model(config):
    """Weights large enough for maps that are not level."""
    model = MODELS.build(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn_like(parameter) * parameter.shape[-1] ** -0.5)
            if name.endswith('bias'):
                parameter.normal_(std=0.1)
    return model


def images(count=2, height=64, width=64):
    return [torch.randint(256, (3, height, width), dtype=torch.uint8) for _ in range(count)]


def sample(text=CAPTION, spans=SPANS, shown=(64, 64), size=(64, 64)):
    meta = dict(img_path='12.jpg', text=text, tokens_positive=spans)
    return DetDataSample(metainfo=dict(meta, img_shape=shown, ori_shape=size))


def test_predicts_a_map_for_each_phrase(model):
    for method in ('attention', 'gradient'):
        mapper = FiberHeatmapModel(model, method, 'all')
        data = dict(inputs=images(), data_samples=[sample(size=(50, 90)), sample(spans=-1)])
        with torch.no_grad():  # as in a test loop
            first, second = mapper.test_step(data)
        assert first.pred_heatmaps.shape == (2, 50, 90)
        assert second.pred_heatmaps.shape == (1, 64, 64)
        for maps in (first.pred_heatmaps, second.pred_heatmaps):
            assert not maps.requires_grad
            assert maps.amin((1, 2)).tolist() == [0] * len(maps)
            torch.testing.assert_close(maps.amax((1, 2)), torch.ones(len(maps)))
        assert not torch.allclose(first.pred_heatmaps[0], first.pred_heatmaps[1])
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize('method', ['attention', 'gradient'])
def test_a_batch_gives_what_its_samples_give(model, method):
    mapper = FiberHeatmapModel(model, method, 'all')
    inputs = images(3)
    samples = [sample(), sample('blue car . dog', [[[0, 8]]]), sample(spans=SPANS[1:])]
    together = mapper.test_step(dict(inputs=inputs, data_samples=samples))
    for i in range(3):
        (alone,) = mapper.test_step(
            dict(inputs=inputs[i : i + 1], data_samples=[samples[i].clone()])
        )
        torch.testing.assert_close(
            alone.pred_heatmaps, together[i].pred_heatmaps, rtol=1e-3, atol=1e-3
        )


def test_captions_of_one_image_share_its_trunk(model, monkeypatch):
    mapper = FiberHeatmapModel(model, method='gradient', blocks='all')
    (image,) = images(1)
    texts = [(CAPTION, SPANS), ('a red circle', [[[2, 12]]])]

    singly = [mapper.test_step(dict(inputs=[image], data_samples=[sample(*t)]))[0] for t in texts]
    encoded = []
    encode = mapper.encoder.image_trunk
    monkeypatch.setattr(
        mapper.encoder, 'image_trunk', lambda x: encoded.append(len(x)) or encode(x)
    )
    together = mapper.test_step(
        dict(inputs=[image, image], data_samples=[sample(*t) for t in texts])
    )
    assert encoded == [1]
    for one, other in zip(together, singly):
        torch.testing.assert_close(one.pred_heatmaps, other.pred_heatmaps, rtol=1e-4, atol=1e-4)


def test_the_gradient_is_that_of_the_match_score(model):
    mapper = FiberHeatmapModel(model, 'gradient', [1], 'both')
    prompt = mapper.tokenize(CAPTION, SPANS)
    picture = mapper.normalized(images(1), [sample()])
    (found,) = mapper.heatmaps(mapper.image_trunk(picture), [prompt], [Frame((64, 64), (64, 64))])
    encoder = model.encoder
    with record_cross_attention(encoder) as record:
        fused = encoder(picture, prompt.input_ids[None], prompt.attention_mask[None])
    logits = model.itm_score(model.joint(fused).pooled)
    odds = logits.softmax(-1)[0, 1].logit()
    pair, square = record[1], (64, 64)
    maps = [
        to_pixels(phrase_maps(token_maps(pair, way, one)[0], prompt.token_map), 32, square, square)
        for way, one in zip(('i2t', 't2i'), torch.autograd.grad(odds, pair[:2]))
    ]  # the second of three pairs belongs to the last stage, whose cells have 32 pixels
    torch.testing.assert_close(found, combine(maps), rtol=1e-3, atol=1e-3)


def test_frozen_models_and_inference_mode(model):
    data = dict(inputs=images(1), data_samples=[sample()])
    mapper = FiberHeatmapModel(model, 'gradient', 'all')
    (wanted,) = mapper.test_step(dict(data, data_samples=[sample()]))
    mapper.requires_grad_(False)
    with torch.inference_mode():
        (found,) = mapper.test_step(data)
    torch.testing.assert_close(found.pred_heatmaps, wanted.pred_heatmaps, rtol=1e-3, atol=1e-3)


def test_the_last_layer_has_no_t2i_gradient_but_that_of_the_first_token(model):
    """Why that combination is refused."""
    encoder = model.encoder
    prompt = FiberHeatmapModel(model).tokenize(CAPTION, SPANS)
    with record_cross_attention(encoder) as record:
        fused = encoder(
            torch.randn(1, 3, 64, 64), prompt.input_ids[None], prompt.attention_mask[None]
        )
    score = model.itm_score(model.joint(fused).pooled)[0, 1]
    (last,) = torch.autograd.grad(score, [record[-1].t2i])
    assert last[:, :, 0].abs().max() > 0
    assert last[:, :, 1:].abs().max() == 0
    with pytest.raises(ValueError, match="reads the first token.*direction='i2t'"):
        FiberHeatmapModel(model, 'gradient', 'last', 't2i')
    FiberHeatmapModel(model, 'gradient', [0, -1], 't2i')
    FiberHeatmapModel(model, 'attention', 'last', 't2i')


def test_shut_gates_have_no_gradient(config):
    config['fusion'].update(gate_init=0.0)
    mapper = FiberHeatmapModel(config, 'gradient', 'all').eval()
    (found,) = mapper.test_step(dict(inputs=images(1), data_samples=[sample()]))
    assert found.pred_heatmaps.abs().max() == 0


def test_checkpoints_are_those_of_the_model_inside(model, config):
    mapper = FiberHeatmapModel(config)
    assert mapper.state_dict().keys() == model.state_dict().keys()
    load_weights(mapper, dict(state_dict=model.state_dict()), 'toy.pth')
    for name, value in model.state_dict().items():
        assert torch.equal(mapper.model.state_dict()[name], value)
    mapper.load_state_dict(model.state_dict())  # torch's own way
    weights = {k: v for k, v in model.state_dict().items() if 'itm_score' not in k}
    with pytest.raises(CheckpointError, match='2 missing: itm_score.fc.weight'):
        load_weights(mapper, dict(state_dict=weights), 'toy.pth')


def test_settings(model, config):
    for faulty, message in (
        (dict(method='gradcam'), "'attention', 'gradient'.*'gradcam'"),
        (dict(direction='up'), "'i2t', 't2i', 'both'.*'up'"),
        (dict(blocks='first'), "'last', 'all' or indices, got 'first'"),
        (dict(blocks=[0, 3]), r'3 fused pairs, 0 to 2 .*\[0, 3\]'),
        (dict(blocks=[]), r'3 fused pairs'),
    ):
        with pytest.raises(ValueError, match=message):
            FiberHeatmapModel(model, **faulty)
    assert FiberHeatmapModel(model).blocks == (2,)
    assert FiberHeatmapModel(model, blocks=[-1, 0, 2]).blocks == (0, 2)
    assert FiberHeatmapModel(model, blocks=1).blocks == (1,)
    with pytest.raises(TypeError, match='Linear has no FIBER encoder'):
        FiberHeatmapModel(torch.nn.Linear(2, 2))
    for losses in (('itc',), ('mlm',)):
        other = MODELS.build(dict(config, losses=losses))
        with pytest.raises(ValueError, match="FiberPretrain has no ITM head.*method='attention'"):
            FiberHeatmapModel(other, 'gradient')
        FiberHeatmapModel(other, 'attention')
    config['fusion'].update(num_blocks=0)
    with pytest.raises(ValueError, match='no fused blocks'):
        FiberHeatmapModel(config)


def test_faulty_samples(model):
    mapper = FiberHeatmapModel(model)
    for spans, text, message in (
        (SPANS, '  ', '12.jpg: the prompt is empty'),
        ([[[2, 99]]], CAPTION, '12.jpg: .*lies outside the caption of 42'),
        ([[[5, 5]]], CAPTION, 'reversed or empty'),
        ([[[1, 4]], [[0, 3]]], '   ,    cat', 'covers no token'),
        ([[[400, 403]]], 'dog ' * 120, '12.jpg: the prompt has .* tokens, the limit is 40'),
    ):
        with pytest.raises(ValueError, match=message):
            mapper.test_step(dict(inputs=images(1), data_samples=[sample(text, spans)]))
    with pytest.raises(KeyError, match="12.jpg: a caption is wanted under 'text', found None"):
        mapper.test_step(dict(inputs=images(1), data_samples=[sample(None)]))
    with pytest.raises(ValueError, match="mode 'loss' is not there"):
        mapper(images(1), [sample()], mode='loss')
    lenient = FiberHeatmapModel(model, skip_faulty_phrases=True)
    with pytest.warns(UserWarning, match='covers no token'), pytest.warns(match='lies outside'):
        (found,) = lenient.test_step(
            dict(inputs=images(1), data_samples=[sample(spans=[[[2, 99]], [[2, 12]]])])
        )
    assert found.pred_heatmaps[0].max() == 0
    assert found.pred_heatmaps[1].max() == 1


def test_the_maps_are_of_the_right_place(model, monkeypatch):
    """Attention that is high in one cell of the last stage gives a peak there."""
    prompt = FiberHeatmapModel(model).tokenize(CAPTION, SPANS)
    words, size = prompt.token_map[0], (3, 4)
    place = 2 * 4 + 1  # row 2, column 1
    high = torch.full((1, 2, 12, len(words)), 1e-3)
    high[:, :, place, words] = 1
    level = torch.full_like(high, 0.1)

    @contextmanager
    def recorded(encoder):
        assert encoder is model.encoder
        yield record

    monkeypatch.setattr('fiber_mm.models.multimodal.heatmap.record_cross_attention', recorded)
    trunk = ImageTrunk(torch.randn(1, 6, 8, 32), ())
    frame = Frame((90, 128), (45, 64))  # the lowest 6 of 96 pixels are padding
    for way in ('i2t', 't2i', 'both'):
        record = [CrossAttention(level, level.mT, size)] * 2
        record.append(CrossAttention(high, high.mT, size))
        (maps,) = FiberHeatmapModel(model, direction=way).heatmaps(trunk, [prompt], [frame])
        row, column = divmod(int(maps[0].argmax()), 64)
        assert (row // 16, column // 16) == (2, 1)
        assert maps[1].max() == 0  # level for the other phrase
        earlier = FiberHeatmapModel(model, blocks=[0, 1], direction=way)
        assert earlier.heatmaps(trunk, [prompt], [frame])[0].max() == 0


def maps_made_on_the_default_device(config, method):
    mapper = FiberHeatmapModel(config, method, 'all').eval()
    ids = torch.ones(8, dtype=torch.int64)
    phrases = torch.ones(2, 8, dtype=torch.bool)
    prompt = TokenizedPrompt(ids, ids != 0, phrases, torch.zeros(2), ['a', 'b'])
    trunk = mapper.image_trunk(torch.randn(1, 3, 60, 50))
    (maps,) = mapper.heatmaps(trunk, [prompt], [Frame((60, 50), (30, 25))])
    assert maps.shape == (2, 30, 25)
    return maps


def test_nothing_sticks_to_the_cpu(config):
    """Fake tensors refuse to mix devices, and know no values that the host could wait for."""
    with FakeTensorMode(allow_non_fake_inputs=False), torch.device('cuda'):
        maps = maps_made_on_the_default_device(config, 'attention')
    assert maps.device.type == 'cuda'
    # The engine refuses fake CUDA tensors where CUDA is missing; `meta` is a device as well.
    with torch.device('meta'):
        assert maps_made_on_the_default_device(config, 'gradient').device.type == 'meta'


@pytest.mark.parametrize('method', ['attention', 'gradient'])
def test_bf16_autocast(model, method):
    mapper = FiberHeatmapModel(model, method, 'all')
    picture = mapper.normalized(images(1), [sample()])
    prompt, frame = mapper.tokenize(CAPTION, SPANS), Frame((64, 64), (64, 64))
    (wanted,) = mapper.heatmaps(mapper.image_trunk(picture), [prompt], [frame])
    with torch.autocast('cpu', torch.bfloat16):
        (found,) = mapper.heatmaps(mapper.image_trunk(picture), [prompt], [frame])
    assert found.dtype == torch.float32
    assert (found - wanted).abs().mean() < 0.05
