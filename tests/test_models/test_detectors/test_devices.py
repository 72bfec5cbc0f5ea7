"""What would go wrong on an accelerator, seen without one.

Fake tensors and tensors on ``meta`` have no values and know their device: reading a number back to
the host, or mixing devices, is an error.
"""

import contextlib
import copy

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.optim import OptimWrapper
from mmengine.structures import InstanceData
from tokenizer_fixture import tokenizer_dir  # noqa: F401
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from fiber_mm.models.data_preprocessors.text import TokenizedPrompt
from fiber_mm.models.dense_heads import fiber_atss_head
from fiber_mm.registry import MODELS

from . import toy

TOKENS, CLASSES = 16, 3


def prompt() -> TokenizedPrompt:
    return TokenizedPrompt(
        input_ids=torch.ones(TOKENS, dtype=torch.int64),
        attention_mask=torch.ones(TOKENS, dtype=torch.bool),
        token_map=torch.ones(CLASSES, TOKENS, dtype=torch.bool),
        labels=torch.arange(CLASSES),
        names=[f'class {i}' for i in range(CLASSES)],
    )


def sample(boxes: int = 0, chunks: int = 1) -> DetDataSample:
    """As the preprocessor leaves it."""
    out = DetDataSample(
        metainfo=dict(img_shape=(64, 96), ori_shape=(64, 96), scale_factor=(1.0, 1.0))
    )
    out.prompts = [prompt() for _ in range(chunks)]
    out.gt_instances = InstanceData(
        bboxes=torch.rand(boxes, 4), positive_map=torch.ones(boxes, TOKENS, dtype=torch.bool)
    )
    return out


def detector():
    config = toy.toy_config('unused')
    del config['data_preprocessor']
    return MODELS.build(config)


@pytest.fixture
def on_cuda():
    """Everything that is made inside is a fake tensor on CUDA."""
    # `torch.autocast` itself does nothing where CUDA is missing.
    before = torch.get_autocast_dtype('cuda')
    torch.set_autocast_enabled('cuda', True)
    torch.set_autocast_dtype('cuda', torch.bfloat16)
    fake = FakeTensorMode(allow_non_fake_inputs=False, shape_env=ShapeEnv())
    with fake, torch.device('cuda'):
        yield
    torch.set_autocast_enabled('cuda', False)
    torch.set_autocast_dtype('cuda', before)
    torch.clear_autocast_cache()


def test_loss_on_cuda(on_cuda):
    model = detector().train()
    losses = model.loss(torch.randn(2, 3, 64, 96), [sample(3), sample(0)])
    total, _ = model.parse_losses(losses)
    assert {loss.device.type for loss in (*losses.values(), total)} == {'cuda'}
    assert {loss.dtype for loss in (*losses.values(), total)} == {torch.float32}


@pytest.mark.parametrize('joint', [True, False])
def test_boxes_on_cuda(on_cuda, monkeypatch, joint):
    """Suppression and limit alone have to know how many boxes are left: here 5 are."""
    kept = 5

    def some(values, *_):
        return torch.arange(kept, device=values.device)

    monkeypatch.setattr(fiber_atss_head, 'class_wise_nms', some)
    monkeypatch.setattr(fiber_atss_head, 'best_with_ties', some)
    model = detector().eval()
    model.bbox_head.test_settings = fiber_atss_head.TestSettings(joint_chunks=joint)
    samples = [sample(chunks=2), sample(chunks=2)]
    with torch.no_grad():
        trunk = model.image_trunk(torch.randn(2, 3, 64, 96))
        prompts = [s.prompts for s in samples]
        for result in model._detect(trunk, prompts, samples, rescale=True):
            assert result.bboxes.shape == (kept if joint else 2 * kept, 4)
            values = (result.bboxes, result.scores, result.labels)
            assert {value.device.type for value in values} == {'cuda'}


@pytest.mark.parametrize('recompute', [False, True])
def test_a_whole_step_reads_nothing_back(tokenizer_dir, monkeypatch, recompute):  # noqa: F811
    """From loaded images and texts to updated weights."""
    # Autocast knows no meta device.
    monkeypatch.setattr(torch, 'autocast', lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(torch, 'is_autocast_enabled', lambda *_: False)
    changes = dict(
        backbone=dict(
            with_cp=recompute,
            swin=dict(frozen_stages=1, drop_path_rate=0.2),
            roberta=dict(hidden_dropout=0.1, attention_dropout=0.1),
        ),
        bbox_head=dict(with_checkpoint=recompute),
    )
    model = MODELS.build(toy.toy_config(tokenizer_dir, changes)).to('meta').train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = OptimWrapper(torch.optim.AdamW(parameters))
    monkeypatch.setattr(optimizer, 'zero_grad', lambda: None)  # gradients are looked at below
    images = [toy.picture(64, 96), toy.picture(70, 50)]
    spans = dict(text='a red circle and a blue star', tokens_positive=[[[2, 12]], [[19, 28]]])
    samples = [
        toy.sample(images[0], [[3, 4, 30, 40], [5, 5, 60, 50]], [1, 0], **spans),
        toy.sample(images[1], text='cat. dog', tokens_positive=[[[0, 3]]], boxes=[], labels=[]),
    ]
    batch = dict(inputs=images, data_samples=samples)
    logged = model.train_step(copy.deepcopy(batch), optimizer)
    assert {value.device.type for value in logged.values()} == {'meta'}
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert {name.split('image.')[1].split('.')[0] for name in frozen} == {'patch_embed', 'layers'}
