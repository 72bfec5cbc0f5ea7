"""Checkpoints for the converter's tests: tiny ones, and full-size ones that take no memory."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from fiber_mm.convert import Arch
from fiber_mm.convert.layout import image_buffers, image_params, layout, text_params

DATA = Path(__file__).resolve().parents[1] / 'parity' / 'data'
FAMILIES = sorted(p.stem.removeprefix('manifest_') for p in DATA.glob('manifest_*.json'))

TINY = Arch(
    embed_dim=8,
    depths=(1, 1, 2, 2),
    num_heads=(1, 2, 2, 4),
    window=2,
    mlp_ratio=2,
    text_layers=4,
    text_dim=12,
    text_ffn=16,
    vocab=30,
    positions=18,
    fused=3,
    joint_dim=12,
    answers=7,
    fpn_dim=16,
    tower=2,
    logit_classes=5,
)


def manifest(family: str) -> dict:
    """The manifest of a kind of released checkpoint."""
    return json.loads((DATA / f'manifest_{family}.json').read_text())


def full_size(family: str) -> dict[str, Tensor]:
    """Tensors of the shapes of a released checkpoint, each of one number and without memory."""
    state = {}
    for i, (key, spec) in enumerate(manifest(family)['tensors'].items()):
        one = torch.tensor(float(i) if spec['role'] == 'param' else 0)
        state[key] = one.to(getattr(torch, spec['dtype'])).expand(spec['shape'])
    return state


def tiny(family: str, arch: Arch = TINY) -> dict[str, Tensor]:
    """An original checkpoint of a tiny model, random parameters, wrong derived buffers."""
    state = {}
    for key, entry in layout(family, arch).items():
        if entry.derived:
            state[key] = torch.full(entry.shape or (3,), 7)
        else:
            state[key] = torch.randn(entry.shape)
    return state


def parameters(family: str, state: dict[str, Tensor], arch: Arch = TINY) -> dict[str, Tensor]:
    """Without the derived buffers."""
    entries = layout(family, arch)
    return {key: value for key, value in state.items() if not entries[key].derived}


def roberta(prefix: str = 'roberta.') -> dict[str, Tensor]:
    """A Hugging Face RoBERTa of the tiny text side."""
    arch = replace(TINY, fused=0)
    state = {prefix + k: torch.randn(s) for k, s in text_params(arch, fused=False)}
    return state | {
        f'{prefix}pooler.dense.weight': torch.zeros(12, 12),
        'lm_head.bias': torch.zeros(30),
        f'{prefix}embeddings.position_ids': torch.zeros(1, 18),
    }


def swin() -> dict[str, Tensor]:
    """An official Swin of the tiny image side."""
    arch = replace(TINY, fused=0)
    state = {k: torch.randn(s) for k, s in image_params(arch, fused=False)}
    state |= {k: torch.zeros(s) for k, s, _ in image_buffers(arch, masks=True)}
    return state | {'head.weight': torch.zeros(9, 64), 'head.bias': torch.zeros(9)}
