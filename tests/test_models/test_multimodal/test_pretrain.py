from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from fiber_mm.models.losses.itm import negative_weights
from fiber_mm.registry import MODELS
from fiber_mm.structures import TextBatch

from .toy import PRETRAIN, batch

QUEUE = dict(negatives='queue', queue=dict(size=5))


def build(**settings):
    return MODELS.build(dict(PRETRAIN, **settings))


@pytest.fixture
def model():
    return build()


def by_the_definition(model, images, texts, wrong_images, wrong_texts):
    """The three losses as the paper has them, every input encoded anew."""
    ids, mask = texts.input_ids, texts.attention_mask
    encoder = model.encoder
    image = model.contrast_image(encoder.image_trunk(images)).pooled
    text = model.contrast_text(encoder.text_trunk(ids, mask)).pooled
    own = torch.arange(len(images))
    similarity = image @ text.t() / model.temp
    itc = (F.cross_entropy(similarity, own) + F.cross_entropy(similarity.t(), own)) / 2

    groups = [
        (images, ids, mask),
        (images, ids[wrong_texts], mask[wrong_texts]),
        (images[wrong_images], ids, mask),
    ]
    logits = torch.cat([model.itm_score(model.joint(encoder(*g)).pooled) for g in groups])
    itm = F.cross_entropy(logits, torch.tensor([1] * len(images) + [0] * 2 * len(images)))

    labels = torch.full_like(ids, -100).flatten()
    labels[texts.masked_positions] = texts.masked_labels
    words = model.mlm_score(model.joint(encoder(images, texts.masked_ids, mask)).text)
    mlm = F.cross_entropy(words.flatten(0, 1), labels)
    return dict(loss_itc=itc, loss_itm=itm, loss_mlm=mlm)


def gradients(model, losses):
    model.zero_grad()
    sum(value for name, value in losses.items() if name.startswith('loss_')).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_shared_trunks_give_the_losses_and_gradients_of_the_definition(model):
    images, texts = batch()
    wrong = torch.tensor([1, 2, 3, 0]), torch.tensor([3, 0, 1, 2])
    with mock.patch.object(model, 'draw_negatives', return_value=wrong):
        losses = model.loss(images, texts)
    wanted = by_the_definition(model, images, texts, *wrong)
    assert {name for name in losses if name.startswith('loss_')} == set(wanted)
    for name, value in wanted.items():
        torch.testing.assert_close(losses[name], value)
    got, wanted = gradients(model, losses), gradients(model, wanted)
    assert got.keys() == wanted.keys()
    assert got.keys() == {n for n, p in model.named_parameters() if p.requires_grad}
    for name, value in wanted.items():
        if name.endswith('self.key.bias'):
            continue  # truly 0: what there is is rounding
        error = (got[name] - value).abs().max() / value.abs().max().clamp(min=1e-5)
        assert error < 1e-3, name


@pytest.mark.parametrize(('settings', 'images'), [({}, 1), (QUEUE, 2)])
def test_one_trunk_for_each_distinct_input(settings, images):
    model = build(**settings)
    model.train().loss(*batch(seed=1))
    encoder = model.encoder
    with (
        mock.patch.object(encoder, 'image_trunk', wraps=encoder.image_trunk) as image,
        mock.patch.object(encoder, 'text_trunk', wraps=encoder.text_trunk) as text,
        mock.patch.object(encoder, 'fuse', wraps=encoder.fuse) as fuse,
    ):
        model.loss(*batch())
    assert sum(len(call.args[0]) for call in image.call_args_list) == 4 * images
    # The texts, and those with hidden words.
    assert sum(len(call.args[0]) for call in text.call_args_list) == 4 * (images + 1)
    assert fuse.call_count == 1
    assert len(fuse.call_args.args[0].tokens) == 16


def test_hidden_words_alone_need_no_other_texts():
    model, (images, texts) = build(losses=('mlm',)), batch()
    encoder = model.encoder
    with (
        mock.patch.object(encoder, 'image_trunk', wraps=encoder.image_trunk) as image,
        mock.patch.object(encoder, 'text_trunk', wraps=encoder.text_trunk) as text,
        mock.patch.object(encoder, 'fuse', wraps=encoder.fuse) as fuse,
    ):
        model.loss(images, texts)
    assert (image.call_count, text.call_count, fuse.call_count) == (1, 1, 1)
    assert text.call_args.args[0].equal(texts.masked_ids)
    assert len(image.call_args.args[0]) == len(fuse.call_args.args[0].tokens) == len(images)


def test_hard_negatives_are_the_similar_ones(model):
    images, texts = batch()
    seen = {}
    draw = model.draw_negatives

    def spy(contrast, own, drawable):
        seen['drawn'] = [draw(contrast, own, drawable) for _ in range(300)]
        seen['contrast'] = contrast
        return seen['drawn'][0]

    with torch.no_grad(), mock.patch.object(model, 'draw_negatives', spy):
        model.loss(images, texts)
    own = torch.arange(4)
    for kind, similarity in enumerate((seen['contrast'].t2i, seen['contrast'].i2t)):
        drawn = torch.stack([pair[kind] for pair in seen['drawn']])
        assert not (drawn == own).any()
        share = F.one_hot(drawn, 4).float().mean(0)
        weights = negative_weights(similarity, own)
        torch.testing.assert_close(share, weights / weights.sum(1, keepdim=True), rtol=0, atol=0.15)


def test_even_negatives_need_no_contrast():
    model = build(losses=('itm', 'mlm'), hard_negatives=False)
    assert not hasattr(model, 'temp')
    losses = model.loss(*batch())
    assert {name for name in losses if name.startswith('loss')} == {'loss_itm', 'loss_mlm'}
    own = torch.arange(4)
    drawn = torch.stack([model.draw_negatives(None, own, 4)[0] for _ in range(300)])
    share = F.one_hot(drawn, 4).float().mean(0)
    torch.testing.assert_close(share, (1 - torch.eye(4)) / 3, rtol=0, atol=0.12)


@pytest.mark.parametrize('losses', [('itc',), ('mlm',), ('itc', 'itm'), ('itc', 'mlm')])
def test_fewer_losses_build_fewer_parts(losses):
    model = build(losses=losses)
    found = model.loss(*batch())
    assert {name for name in found if name.startswith('loss')} == {f'loss_{n}' for n in losses}
    assert hasattr(model, 'mlm_score') == ('mlm' in losses)
    assert hasattr(model, 'itm_score') == ('itm' in losses)


def test_the_temperature_is_clamped(model):
    for value, wanted in ((3.0, 1.0), (-0.2, 0.001), (0.07, 0.07)):
        with torch.no_grad():
            model.temp.fill_(value)
        model.loss(*batch())
        torch.testing.assert_close(model.temp.detach(), torch.tensor(wanted))


def test_queue_candidates_are_detached_and_hold_noise():
    model = build(**QUEUE)
    image = F.normalize(torch.randn(2, 10), dim=1).requires_grad_()
    text = F.normalize(torch.randn(2, 10), dim=1)
    images, texts = model.candidates(image, text)
    assert images.shape == texts.shape == (7, 10)
    assert not images.requires_grad
    assert model.places(2, image.device)[1] == 2  # noise is contrasted with, not drawn
    model.queue.noise = False
    assert model.candidates(image, text)[0].shape == (2, 10)


def test_queue_is_filled_in_training_only_and_after_drawing():
    model = build(**QUEUE)
    model.eval().loss(*batch(2))
    assert model.queue.total == 0
    seen = []
    draw = model.draw_negatives

    def spy(contrast, own, drawable):
        seen.append(drawable)
        return draw(contrast, own, drawable)

    model.train()
    with mock.patch.object(model, 'draw_negatives', spy):
        for step in range(4):
            model.loss(*batch(2, seed=step))
    assert seen == [2, 4, 6, 7]
    assert (model.queue.total, model.queue.pointer) == (8, 3)
    assert not any('queue' in key for key in model.state_dict())


def test_negatives_from_the_queue_are_encoded_again():
    model = build(**QUEUE).train()
    past_images, past_texts = batch(2, seed=5)
    model.loss(past_images, past_texts)
    images, texts = batch(2)
    # An image of the queue and one of the batch, a text of the batch and one of the queue.
    wrong = torch.tensor([3, 0]), torch.tensor([1, 2])
    with mock.patch.object(model, 'draw_negatives', return_value=wrong):
        got = model.loss(images, texts)['loss_itm']
    ids = torch.cat([texts.input_ids, past_texts.input_ids])
    every = torch.cat([images, past_images])
    groups = [
        (images, texts.input_ids),
        (images, ids[wrong[1]]),
        (every[wrong[0]], texts.input_ids),
    ]
    encoder = model.encoder
    logits = torch.cat(
        [model.itm_score(model.joint(encoder(i, t, t != 1)).pooled) for i, t in groups]
    )
    torch.testing.assert_close(got, F.cross_entropy(logits, torch.tensor([1, 1, 0, 0, 0, 0])))


def test_predict(model):
    images, texts = batch(3)
    samples = model.eval()(images, texts, mode='predict')
    joint = model(images, texts, mode='tensor')
    wanted = model.itm_score(joint.pooled).softmax(-1)[:, 1]
    torch.testing.assert_close(torch.stack([s.match_score for s in samples]), wanted)
    assert all(-1 <= s.similarity <= 1 for s in samples)
    again = model(images, texts, data_samples=samples, mode='predict')
    assert again[0] is samples[0]


def test_bf16_is_near(model):
    images, texts = batch()
    wrong = torch.tensor([1, 2, 3, 0]), torch.tensor([3, 0, 1, 2])
    with mock.patch.object(model, 'draw_negatives', return_value=wrong):
        plain = model.loss(images, texts)
        with torch.autocast('cpu', torch.bfloat16):
            half = model.loss(images, texts)
    for name in ('loss_itc', 'loss_itm', 'loss_mlm'):
        assert half[name].dtype == torch.float32
        torch.testing.assert_close(half[name], plain[name], rtol=0.05, atol=0.02)


def test_gradients_of_a_recomputing_model():
    images, texts = batch()
    wrong = torch.tensor([1, 2, 3, 0]), torch.tensor([3, 0, 1, 2])
    grads = []
    for with_cp in (False, True):
        torch.manual_seed(0)
        model = build(with_cp=with_cp).train()
        with mock.patch.object(model, 'draw_negatives', return_value=wrong):
            grads.append(gradients(model, model.loss(images, texts)))
    for name, value in grads[0].items():
        torch.testing.assert_close(grads[1][name], value)


@pytest.mark.parametrize('settings', [{}, QUEUE])
def test_a_step_on_an_accelerator_waits_for_nothing(settings):
    """Fake tensors have no values and know their device: reading one back would be an error."""
    with (
        FakeTensorMode(allow_non_fake_inputs=False, shape_env=ShapeEnv()),
        torch.device('cuda'),
        torch.autocast('cuda', torch.bfloat16),
    ):
        model = build(**settings).train()
        for _ in range(2):
            images = torch.randn(4, 3, 64, 64)
            ids = torch.ones(4, 6, dtype=torch.int64)
            texts = TextBatch(ids, ids == 1, ids, torch.arange(5), torch.arange(5))
            losses = model.loss(images, texts)
            total, _ = model.parse_losses(losses)
        assert {value.device.type for value in (*losses.values(), total)} == {'cuda'}
        assert {losses[f'loss_{n}'].dtype for n in ('itc', 'itm', 'mlm')} == {torch.float32}


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(losses=('itc', 'vqa')), 'vqa'),
        (dict(losses=()), 'losses are some of'),
        (dict(negatives='memory'), "'batch' or a 'queue', got 'memory'"),
        (dict(queue=dict(size=4)), "negatives='queue'"),
        (dict(losses=('itm', 'mlm')), 'hard_negatives=False'),
        (dict(losses=('mlm',), negatives='queue'), 'features of the contrast'),
        (dict(parts=('itc',)), r"need the parts .*'mlm'"),
    ],
)
def test_settings_that_do_not_go_together(settings, message):
    with pytest.raises(ValueError, match=message):
        build(**settings)


def test_bad_batches(model):
    images, texts = batch()
    with pytest.raises(KeyError, match='FiberMaskTokens'):
        model.loss(images, texts._replace(masked_ids=None))
    with pytest.raises(ValueError, match='one pair has no negatives'):
        model.loss(*batch(1))
    with pytest.raises(ValueError, match="got 'train'"):
        model(images, texts, mode='train')
    queued = build(**QUEUE).train()
    queued.loss(*batch(2))
    with pytest.raises(ValueError, match='pad_to'):
        queued.loss(*batch(2, length=7))
