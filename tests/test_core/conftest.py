"""A tiny encoder whose every parameter matters, for all tests of the core."""

import pytest
import torch
from torch import nn

from fiber_mm.core import FiberCfg, FiberEncoder, FusionCfg, RobertaCfg, SwinCfg

TINY_SWIN = dict(embed_dim=8, depths=(2, 2, 3, 2), num_heads=(1, 2, 2, 4), window_size=3)
TINY_ROBERTA = dict(
    vocab_size=50,
    hidden_size=16,
    num_layers=5,
    num_heads=2,
    intermediate_size=24,
    max_position_embeddings=20,
)
TINY_FUSION = dict(num_blocks=4, gate_init=0.5)
# How the released families differ, see fiber_mm/core/config.py.
FAMILIES = dict(
    coarse=dict(
        swin=dict(shift_single_window=False, output_norms=(), final_norm=True),
        fusion=dict(norm_i2t_query=True, fused_text_norm=False),
    ),
    fine_v2=dict(),
    fine_v3=dict(fusion=dict(norm_i2t_query=True)),
)


def tiny_cfg(family='fine_v2', swin=None, roberta=None, fusion=None, checkpoint=False) -> FiberCfg:
    """Settings of a family at toy size; dictionaries override single fields."""
    special = FAMILIES[family]
    return FiberCfg(
        swin=SwinCfg(**{**TINY_SWIN, **special.get('swin', {}), **(swin or {})}),
        roberta=RobertaCfg(**{**TINY_ROBERTA, **(roberta or {})}),
        fusion=FusionCfg(**{**TINY_FUSION, **special.get('fusion', {}), **(fusion or {})}),
        checkpoint=checkpoint,
    )


def randomize(module: nn.Module, seed: int = 0) -> None:
    """Draws every parameter so that none is 0 or 1; the gates stay as they are."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if 'alpha' in name:
                continue
            noise = torch.randn(parameter.shape, generator=generator) * 0.2
            norm = parameter.ndim == 1 and name.endswith('weight')
            parameter.copy_(1 + noise if norm else noise)


def tiny_encoder(seed: int = 0, **cfg) -> FiberEncoder:
    """A seeded toy encoder in eval mode; see :func:`tiny_cfg` for ``cfg``."""
    encoder = FiberEncoder(tiny_cfg(**cfg))
    randomize(encoder, seed)
    return encoder.eval()


def tiny_batch(batch=2, height=40, width=56, tokens=7, seed=0):
    """Images, ids and mask; every text but the first is padded."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(batch, 3, height, width, generator=generator)
    ids = torch.randint(3, TINY_ROBERTA['vocab_size'], (batch, tokens), generator=generator)
    for i in range(1, batch):
        ids[i, -1 - i % (tokens - 1) :] = 1
    return images, ids, ids != 1


@pytest.fixture(params=sorted(FAMILIES))
def family(request):
    """Name of each released family."""
    return request.param
