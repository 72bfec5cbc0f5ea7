"""A tiny detector whose every parameter matters, and batches for it."""

import copy

import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import nn

from fiber_mm.registry import MODELS

#: Tokens of ``tests/tokenizer_fixture.py``.
VOCABULARY = 330

CONFIG = dict(
    type='FiberGrounder',
    data_preprocessor=dict(
        type='FiberDataPreprocessor',
        max_tokens=48,
        pad_to='longest',
        mean=[103.53, 116.28, 123.675],
        std=[57.375, 57.12, 58.395],
        bgr_to_rgb=False,
        pad_size_divisor=32,
    ),
    backbone=dict(
        type='FiberBackbone',
        swin=dict(embed_dim=8, depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 4), window_size=4),
        roberta=dict(
            vocab_size=VOCABULARY,
            hidden_size=16,
            num_layers=3,
            num_heads=2,
            intermediate_size=24,
            max_position_embeddings=50,
            hidden_dropout=0.0,
            attention_dropout=0.0,
        ),
        fusion=dict(num_blocks=2, gate_init=0.5),
    ),
    neck=dict(type='FiberFPN', in_channels=[16, 32, 64], out_channels=16, num_outs=3),
    bbox_head=dict(
        type='FiberATSSHead',
        in_channels=16,
        feat_channels=16,
        text_channels=16,
        num_blocks=1,
        num_groups=4,
        strides=(8, 16, 32),
    ),
    test_cfg=dict(score_thr=0.0, nms_pre=100, max_per_img=20),
)


def merge(base: dict, changes: dict) -> dict:
    """``base`` with the leaves of ``changes``; neither is altered."""
    merged = copy.deepcopy(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def toy_config(tokenizer: str, changes: dict | None = None) -> dict:
    """Config of the detector; ``changes`` are nested dictionaries of what differs."""
    config = merge(CONFIG, changes or {})
    config['data_preprocessor']['tokenizer'] = tokenizer
    return config


def shake(module: nn.Module, seed: int = 0) -> None:
    """Draws every parameter so that none is 0 or 1 and text and image decide the scores."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, param in module.named_parameters():
            # Kernels of the tower are random as they are; larger ones end in dead ReLUs.
            if 'dyhead_tower' in name and param.ndim > 1:
                continue
            noise = 0.3 * torch.randn(param.shape, generator=generator)
            scale = name.endswith('weight') and param.ndim == 1
            scale = scale or 'alpha' in name or 'scales' in name
            param.copy_(1 + noise if scale else noise)


def toy_detector(tokenizer: str, changes: dict | None = None) -> nn.Module:
    """A detector in evaluation mode; always the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MODELS.build(toy_config(tokenizer, changes))
    shake(model)
    return model.eval()


def picture(height: int = 64, width: int = 96, seed: int = 0) -> torch.Tensor:
    """(3, H, W) uint8."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)


def sample(image: torch.Tensor, boxes: list | None = None, labels=(), **metainfo) -> DetDataSample:
    """What the pipeline packs for ``image``; ``boxes`` xyxy for training."""
    shape = tuple(image.shape[1:])
    metainfo = dict(ori_shape=shape, img_shape=shape, scale_factor=(1.0, 1.0), **metainfo)
    packed = DetDataSample(metainfo=metainfo)
    if boxes is not None:
        packed.gt_instances = InstanceData(
            bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            labels=torch.tensor(labels, dtype=torch.int64),
        )
    return packed


def detect(model: nn.Module, images: list, **metainfo) -> list[InstanceData]:
    """Predictions for images that share a text."""
    batch = dict(inputs=images, data_samples=[sample(image, **metainfo) for image in images])
    return [result.pred_instances for result in model.test_step(batch)]
