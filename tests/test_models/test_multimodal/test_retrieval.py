from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from mmpretrain.structures import DataSample

from fiber_mm.registry import MODELS

from .toy import ENCODER, batch


def build(**settings):
    return MODELS.build(dict(dict(type='FiberRetrieval', **ENCODER), **settings))


def every_pair(model, images, texts):
    """Pooled features of all pairs, each through the whole encoder."""
    rows = [
        model.joint(
            model.encoder(images[i : i + 1], texts.input_ids[t : t + 1],
                          texts.attention_mask[t : t + 1])
        ).pooled
        for i in range(len(images)) for t in range(len(texts.input_ids))
    ]  # fmt: skip
    return torch.cat(rows)


# ---- training --------------------------------------------------------------------------------


def test_losses_decide_what_is_built():
    itc, itm = build(losses=('itc',)), build(losses=('itm',))
    assert itc.has_contrast
    assert not itc.has_matching
    assert itm.has_matching
    assert not itm.has_contrast
    assert set(itc.loss(*batch())) == {'loss_itc'}
    assert set(itm.loss(*batch())) == {'loss_itm', 'acc_itm'}
    both = build(losses=('itc', 'itm'))
    assert set(both.loss(*batch())) == {'loss_itc', 'loss_itm', 'acc_itm'}


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(losses=('mlm',)), 'losses of retrieval are some of'),
        (dict(losses=()), 'losses of retrieval are some of'),
        (
            dict(losses=('itm',), hard_negatives=True),
            'hard negatives are drawn by the similarities',
        ),
        (dict(rank_by='itm'), "rank_by is one of .*, got 'itm'"),
        (dict(losses=('itm',), negatives='queue'), 'a queue holds features of the contrast'),
    ],
)
def test_settings_that_do_not_go_together(settings, message):
    with pytest.raises(ValueError, match=message):
        build(**settings)


@pytest.mark.parametrize('size', [2, 5, 8])
def test_half_of_the_partners_are_right(size):
    model = build(losses=('itm',))
    places, partners = torch.zeros(size), torch.zeros(size, size)
    for _ in range(400):
        match, partner = model.draw_partners(size, torch.device('cpu'))
        own = torch.arange(size)
        assert int(match.sum()) == size // 2, 'rounded down, never more or fewer'
        assert (partner[match] == own[match]).all()
        assert (partner[~match] != own[~match]).all()
        places += match
        partners[own[~match], partner[~match]] += 1
    torch.testing.assert_close(
        places / 400, torch.full((size,), size // 2 / size), rtol=0, atol=0.1
    )
    share = partners / partners.sum(1, keepdim=True)
    even = (1 - torch.eye(size)) / (size - 1)
    torch.testing.assert_close(share, even, rtol=0, atol=0.12)


def test_one_pair_has_no_wrong_image():
    model = build(losses=('itc', 'itm'), negatives='queue', queue=dict(size=4))
    with pytest.raises(ValueError, match='a batch of one pair has no wrong image'):
        model.loss(*batch(1))


def test_matching_as_released():
    """Loss and gradients are those of the pairs that were drawn, each encoded anew."""
    model = build(losses=('itm',))
    images, texts = batch()
    match, partner = torch.tensor([True, False, False, True]), torch.tensor([0, 3, 1, 3])
    ids, mask = texts.input_ids, texts.attention_mask
    encoder = model.encoder
    with (
        mock.patch.object(model, 'draw_partners', return_value=(match, partner)),
        mock.patch.object(encoder, 'image_trunk', wraps=encoder.image_trunk) as trunk,
    ):
        losses = model.loss(images, texts)
    assert [len(call.args[0]) for call in trunk.call_args_list] == [4], 'each image once'
    losses['loss_itm'].backward()
    got = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    model.zero_grad()
    logits = model.itm_score(model.joint(model.encoder(images[partner], ids, mask)).pooled)
    wanted = F.cross_entropy(logits, match.long())
    torch.testing.assert_close(losses['loss_itm'], wanted)
    assert losses['acc_itm'] == ((logits.argmax(1) == 1) == match).float().mean()
    wanted.backward()
    for name, value in got.items():
        if name.endswith('self.key.bias'):
            continue  # truly 0: what there is is rounding
        grad = model.get_parameter(name).grad
        error = (value - grad).abs().max() / grad.abs().max().clamp(min=1e-5)
        assert error < 1e-3, name


def test_hard_negatives_are_those_of_pretraining():
    model = build(losses=('itc', 'itm'), hard_negatives=True)
    wrong = torch.tensor([1, 2, 3, 0]), torch.tensor([3, 0, 1, 2])
    images, texts = batch()
    pretrain = MODELS.build(dict(type='FiberPretrain', losses=('itc', 'itm'), **ENCODER))
    pretrain.load_state_dict(model.state_dict())
    losses = []
    for each in (model, pretrain):
        with mock.patch.object(each, 'draw_negatives', return_value=wrong):
            losses.append(each.loss(images, texts))
    assert losses[0].keys() == losses[1].keys()
    for name, value in losses[1].items():
        assert losses[0][name].equal(value), name


def test_a_queue_of_the_contrast_alone_keeps_no_images():
    model = build(losses=('itc',), negatives='queue', queue=dict(size=8)).train()
    for seed in range(3):
        loss = model.loss(*batch(seed=seed))['loss_itc']
    assert loss.isfinite()
    state = model.queue.state_dict()
    assert state['total'] == 12
    assert state['pixels'].shape == (8, 3, 1, 1)


# ---- use -------------------------------------------------------------------------------------


def test_scores_of_all_pairs_from_their_trunks():
    model = build(losses=('itc', 'itm')).eval()
    images, texts = batch(3)[0], batch(4, seed=1)[1]
    with torch.no_grad():
        pooled = every_pair(model, images, texts)
        wrong, right = model.itm_score(pooled).unbind(1)
        trunks = model.encode_images(images), model.encode_texts(texts)
        for size in (1, 5, 64):
            scores = model.score_matrix(*trunks, batch_size=size)
            torch.testing.assert_close(scores, (right - wrong).view(3, 4))
        model.rank_by = 'rank_output'
        torch.nn.init.normal_(model.rank_output.weight)
        scores = model.score_matrix(*trunks)
        torch.testing.assert_close(scores, model.rank_output(pooled).view(3, 4))


def test_scores_tell_apart_what_probabilities_do_not():
    model = build(losses=('itm',)).eval()
    with torch.no_grad():
        model.itm_score.fc.bias.copy_(torch.tensor([-20.0, 20.0]))
        images, texts = batch()
        scores = model.pair_scores(model.encode_images(images), model.encode_texts(texts))
        samples = model(images, texts, mode='predict')
    assert len({float(sample.match_score) for sample in samples}) == 1
    assert len(set(scores.tolist())) == 4


def test_modes():
    model = build(losses=('itc', 'itm')).eval()
    images, texts = batch()
    with torch.no_grad():
        found = model(images, texts)
        assert found['image_feat'].shape == found['text_feat'].shape == (4, 10)
        assert found['pair_score'].shape == (4,)
        assert set(model.extract_feat(images)) == {'image_feat'}
        assert model.extract_feat(texts=texts)['text_feat'].equal(found['text_feat'])
        torch.testing.assert_close(found['image_feat'].norm(dim=1), torch.ones(4))
    samples = [DataSample(text='a') for _ in images]
    predicted = model(images, texts, samples, mode='predict')
    assert predicted is samples
    similarity = (found['image_feat'] * found['text_feat']).sum(1)
    torch.testing.assert_close(torch.stack([s.similarity for s in samples]), similarity)
    probability = found['pair_score'].sigmoid()
    torch.testing.assert_close(torch.stack([s.match_score for s in samples]), probability)
    with pytest.raises(ValueError, match="got 'rank'"):
        model(images, texts, mode='rank')
