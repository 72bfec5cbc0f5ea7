"""The cases of the coarse stage, with a small model."""

from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from test_models.test_multimodal.toy import ENCODER, PRETRAIN
from torch.utils.flop_counter import FlopCounterMode

from fiber_mm.benchmark import CASES, Spec, coarse, plain
from fiber_mm.registry import MODELS

TOY = dict(PRETRAIN, roberta=dict(ENCODER['roberta'], max_position_embeddings=60))


def spec(case, **settings):
    return Spec(case, size=(64, 64), model=TOY, **settings)


@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
@pytest.mark.parametrize('name', ['pretrain_step', 'pretrain_step_queue', 'itm_rerank'])
def test_cases_run(name, precision):
    case = CASES[name](spec(name, precision=precision))
    case.run()
    assert case.flops > 0


def test_all_pairs_have_the_same_scores_either_way():
    shared = CASES['itm_rerank'](spec('itm_rerank')).run()
    with plain.plain_formulation():
        anew = CASES['itm_rerank'](spec('itm_rerank', plain=True)).run()
    assert shared.shape == (coarse.IMAGES, coarse.CAPTIONS)
    torch.testing.assert_close(shared, anew)


def test_the_plain_step_computes_the_same_losses():
    model = MODELS.build(TOY).eval()
    images, texts = torch.randn(3, 3, 64, 64), coarse.make_texts(3, 40, 30, 'cpu')
    other = torch.tensor([2, 0, 1])
    with mock.patch.object(model, 'draw_negatives', return_value=(other, other)):
        shared = model.loss(images, texts)
    with plain.plain_formulation():
        anew = coarse.unshared_losses(model, images, texts)
    assert anew.keys() == {name for name in shared if name.startswith('loss_')}
    for name, value in anew.items():
        torch.testing.assert_close(shared[name], value)


def counted(function):
    """Operations that PyTorch sees; attention written out, since it leaves the fused one out."""
    counter = FlopCounterMode(display=False)
    with mock.patch.object(F, 'scaled_dot_product_attention', plain.attention), counter:
        function()
    return counter.get_total_flops()


def test_the_formulas_count_what_pytorch_counts():
    rerank = CASES['itm_rerank'](spec('itm_rerank'))
    assert rerank.flops == pytest.approx(counted(rerank.run), rel=0.02)
    images, texts = torch.randn(2, 3, 64, 64), coarse.make_texts(2, 40, 30, 'cpu')
    for negatives, settings in (('batch', {}), ('queue', dict(queue=dict(size=8)))):
        model = MODELS.build(dict(TOY, negatives=negatives, **settings)).train()
        if negatives == 'queue':
            model.queue.mean, model.queue.std = torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
            coarse.fill_queue(model, 64, 40, 'cpu')
        forward = counted(lambda m=model: m.loss(images, texts))
        flops = coarse.pretrain_flops(model, 64, texts, negatives)
        assert flops / 3 == pytest.approx(forward, rel=0.02)


def test_operations_of_the_released_model():
    """Sharing saves what the design says: 2.3 with batch negatives, 1.7 with those of a queue."""
    with torch.device('meta'):
        model = MODELS.build(dict(coarse.coarse_model(), data_preprocessor=None))
    texts = coarse.make_texts(2, 40, 50265, 'cpu')
    cfg = model.encoder.cfg
    parts = coarse.encoder_flops(cfg, 384, 384, 40)
    alone = coarse.alone_flops(cfg, 384, 40)
    pair = parts.image_trunk + parts.text_trunk + parts.fuse
    original = 2 * 3 * (4 * pair + alone.image_trunk + alone.text_trunk)
    batch = coarse.pretrain_flops(model, 384, texts, 'batch')
    queue = coarse.pretrain_flops(model, 384, texts, 'queue')
    assert original / batch == pytest.approx(2.3, abs=0.2)
    assert original / queue == pytest.approx(1.7, abs=0.2)


@pytest.mark.parametrize(
    ('size', 'message'), [((64, 96), 'square images'), ((40, 40), 'multiple of 32')]
)
def test_sizes(size, message):
    with pytest.raises(ValueError, match=message):
        CASES['pretrain_step'](Spec('pretrain_step', size=size, model=TOY))
