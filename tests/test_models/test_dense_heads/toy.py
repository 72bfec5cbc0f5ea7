"""A tiny head and random inputs for it."""

import torch

from fiber_mm.models.dense_heads import FiberATSSHead
from fiber_mm.models.dense_heads.fiber_atss_head import HeadOutputs

CHANNELS, TEXT, TOKENS = 16, 12, 20
SIZES = ((16, 20), (8, 10), (4, 5), (2, 3), (1, 2))
IMAGE = (120, 150)


def tiny_head(**settings) -> FiberATSSHead:
    defaults = dict(
        in_channels=CHANNELS, feat_channels=CHANNELS, text_channels=TEXT, num_blocks=2, num_groups=4
    )
    return FiberATSSHead(**{**defaults, **settings})


def rough_head(**settings) -> FiberATSSHead:
    """A head whose every parameter matters, unlike at its initial values."""
    head = tiny_head(**settings)
    for name, param in head.named_parameters():
        if 'dyhead_tower' not in name:
            torch.nn.init.normal_(param, 1.0 if 'scales' in name else 0.0, 0.3)
        elif param.dim() == 1:
            torch.nn.init.normal_(param, 1.0 if 'bn.weight' in name else 0.0, 0.2)
    return head


def inputs(batch=2, tokens=TOKENS):
    """Pyramid maps, text whose second half is padding for image 0, its mask."""
    feats = [torch.randn(batch, CHANNELS, h, w) for h, w in SIZES]
    mask = torch.ones(batch, tokens, dtype=torch.bool)
    mask[0, tokens // 2 :] = False
    return feats, torch.randn(batch, tokens, TEXT) * mask[..., None], mask


def random_outputs(batch=2, tokens=TOKENS) -> HeadOutputs:
    """Outputs without a network."""
    return HeadOutputs(
        [torch.randn(batch, h * w, tokens) - 2 for h, w in SIZES],
        [torch.randn(batch, 4, h, w) for h, w in SIZES],
        [torch.randn(batch, 1, h, w) for h, w in SIZES],
    )


def random_boxes(count, height=IMAGE[0], width=IMAGE[1]):
    """Boxes of many sizes inside of the image, inclusive corners."""
    low = torch.rand(count, 2) * torch.tensor([width - 30.0, height - 30.0])
    high = low + 8 + torch.rand(count, 2) * 60
    return torch.cat([low, high.minimum(torch.tensor([width - 1.0, height - 1.0]))], -1)
