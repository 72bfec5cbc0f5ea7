"""The cases of the detector, with a small model."""

from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from test_models.test_detectors.toy import CONFIG, merge
from torch.utils.flop_counter import FlopCounterMode

from fiber_mm.benchmark import CASES, Spec, cases, plain
from fiber_mm.benchmark.flops import detector_flops
from fiber_mm.models.detectors import FiberGrounder

TOY = merge(CONFIG, dict(backbone=dict(roberta=dict(max_position_embeddings=258))))
SIZE = (128, 128)


def spec(case, **settings):
    return Spec(case, size=SIZE, model=TOY, **settings)


@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
@pytest.mark.parametrize('name', ['detect', 'detect_chunks', 'detect_captions', 'train_step'])
def test_cases_run(name, precision):
    case = CASES[name](spec(name, precision=precision))
    case.run()
    for beside in case.beside.values():
        beside()
    assert case.flops > 0


def test_the_plain_formulation_finds_the_same_boxes():
    ours = CASES['detect'](spec('detect')).run().pred_instances
    with plain.plain_formulation():
        plainly = CASES['detect'](spec('detect', plain=True)).run().pred_instances
    assert len(ours) == 20
    torch.testing.assert_close(ours.scores, plainly.scores, rtol=1e-4, atol=1e-5)
    assert ours.labels.tolist() == plainly.labels.tolist()
    torch.testing.assert_close(ours.bboxes, plainly.bboxes, rtol=1e-3, atol=1e-2)


def test_the_plain_formulation_has_the_same_losses():
    """In a second step, too, so the gradients agree; without DropBlock and drop path."""
    still = merge(
        TOY, dict(backbone=dict(swin=dict(drop_path_rate=0.0)), neck=dict(drop_block=None))
    )
    ours, plainly = (
        Spec('train_step', size=SIZE, model=still, plain=kind) for kind in (False, True)
    )
    ours = CASES['train_step'](ours)
    ours = [ours.run(), ours.run()][1]
    with plain.plain_formulation():
        case = CASES['train_step'](plainly)
        plainly = [case.run(), case.run()][1]
    assert ours.keys() == plainly.keys()
    for name, value in ours.items():
        torch.testing.assert_close(plainly[name], value, rtol=1e-4, atol=1e-5)


def test_captions_in_one_batch_find_what_each_finds_alone():
    case = CASES['detect_captions'](spec('detect_captions'))
    together, singly = case.run(), case.beside['one_by_one']()
    assert len(together) == len(singly) == 5
    for one, other in zip(together, singly):
        one, other = one.pred_instances, other.pred_instances
        torch.testing.assert_close(one.scores, other.scores, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(one.bboxes, other.bboxes, rtol=1e-3, atol=1e-2)


def test_the_plain_formulation_encodes_the_image_for_every_caption(monkeypatch):
    encoded = []
    encode = FiberGrounder.image_trunk
    monkeypatch.setattr(
        FiberGrounder, 'image_trunk', lambda self, x: encoded.append(len(x)) or encode(self, x)
    )
    for plainly, wanted in ((False, [1]), (True, [1] * 5)):
        case = CASES['detect_captions'](spec('detect_captions', plain=plainly))
        encoded.clear()
        case.run()
        assert encoded == wanted


def test_a_prompt_of_80_classes_fills_less_than_256_tokens():
    prompt = cases.class_prompt(range(80, 160), 0, 100)
    assert prompt.token_map.any(1).all()
    assert prompt.token_map.sum(0).max() == 1
    assert 170 < prompt.attention_mask.sum() < 256
    assert prompt.labels.tolist() == list(range(80, 160))


@pytest.mark.parametrize('size', [(128, 128), (128, 256)])
def test_the_formula_counts_what_pytorch_counts(size):
    """On maps of whole windows; attention written out, since PyTorch leaves the fused one out."""
    model = cases.build_model(spec('detect')).eval()
    image, sample = cases.make_image(spec('detect'), size)
    sample.prompts = [cases.class_prompt(range(80), 0, 100)]
    counter = FlopCounterMode(display=False)
    with (
        torch.no_grad(),
        mock.patch.object(F, 'scaled_dot_product_attention', plain.attention),
        counter,
    ):
        model._forward(image, [sample])
    pooled = counter.get_total_flops() - detector_flops(model, *size, 256)
    # Scalars and slopes of the tower, which are left out.
    assert 0 <= pooled < 1e-3 * counter.get_total_flops()


def test_the_released_detector():
    """0.9 TFLOP; four chunks need far less than four times the operations of one."""
    with torch.device('meta'):
        model = cases.build_model(Spec('detect', device='meta'))
    assert detector_flops(model, 800, 1056, 256) / 1e12 == pytest.approx(0.9, abs=0.05)
    one, four = (detector_flops(model, 480, 640, 256, chunks) for chunks in (1, 4))
    assert four / one == pytest.approx(2.74, abs=0.01)
    whole = detector_flops(model, 800, 1056, 256, training=True)
    assert 2.5 < whole / detector_flops(model, 800, 1056, 256) <= 3
