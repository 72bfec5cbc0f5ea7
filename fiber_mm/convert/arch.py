"""The sizes on which the names and shapes of a checkpoint depend."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isqrt

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Arch:
    """Sizes of one FIBER model; the defaults are FIBER-Base, the released one.

    Attributes:
        window: window side in tokens; fixes the rows of the bias tables, (2 * window - 1)^2.
        fused: number of last Swin blocks paired with as many last text layers.
        joint_dim: width after the cross-modal transforms of the coarse stage.
        fpn_dim: width of the feature pyramid and the DyHead tower.
        tower: number of DyHead blocks.
        logit_classes: rows of the unused `rpn.head.cls_logits`.
    """

    embed_dim: int = 128
    depths: tuple[int, ...] = (2, 2, 18, 2)
    num_heads: tuple[int, ...] = (4, 8, 16, 32)
    window: int = 12
    mlp_ratio: int = 4
    patch: int = 4
    text_layers: int = 12
    text_dim: int = 768
    text_ffn: int = 3072
    vocab: int = 50265
    positions: int = 514
    token_types: int = 1
    fused: int = 6
    joint_dim: int = 768
    answers: int = 3129
    fpn_dim: int = 256
    tower: int = 6
    levels: int = 5
    logit_classes: int = 80

    def dim(self, stage: int) -> int:
        """Width of Swin stage `stage`, counted from 0."""
        return self.embed_dim * 2**stage

    @property
    def final_dim(self) -> int:
        """Width of the last Swin stage."""
        return self.dim(len(self.depths) - 1)

    @property
    def blocks(self) -> tuple[tuple[int, int], ...]:
        """(stage, block) of every Swin block in order."""
        return tuple((s, b) for s, depth in enumerate(self.depths) for b in range(depth))

    @property
    def fused_blocks(self) -> tuple[tuple[int, int], ...]:
        """(stage, block) of the Swin blocks with image-to-text attention."""
        return self.blocks[len(self.blocks) - self.fused :]

    @property
    def first_fused_layer(self) -> int:
        """Index of the first text layer with text-to-image attention."""
        return self.text_layers - self.fused


BASE = Arch()


def common_window(shapes: Shapes) -> int | None:
    """Window side that most relative-position-bias tables of a checkpoint have.

    Args:
        shapes: key -> shape; any prefix.

    Returns:
        The side, or None if there is no table of a square window.
    """
    rows = Counter(
        shape[0]
        for key, shape in shapes.items()
        if key.endswith('relative_position_bias_table') and len(shape) == 2
    )
    for count, _ in rows.most_common():
        side = isqrt(count)
        if side * side == count and side % 2:
            return (side + 1) // 2
    return None


def free_sizes(shapes: Shapes, arch: Arch = BASE) -> Arch:
    """`arch` with the sizes that differ among released files taken from the checkpoint.

    These are the window (12 or 18) and the number of VQA answers; all other sizes are fixed,
    so a tensor of another shape is reported and not explained away.
    """
    window = common_window(shapes) or arch.window
    answers = shapes.get('vqa_classifier.3.weight', (arch.answers,))[0]
    return replace(arch, window=window, answers=answers)


def infer(shapes: Shapes, image: str, text: str, base: Arch = BASE) -> Arch:
    """Sizes of a checkpoint of any model size, read off a few of its tensors.

    Args:
        shapes: our key -> shape.
        image: prefix of the Swin keys, as `encoder.image.`.
        text: prefix of the RoBERTa keys.
        base: what to assume where the telling key is not there.
    """

    def count(pattern: str) -> int:
        found = {m.group(1) for key in shapes if (m := re.match(pattern, key))}
        return len(found)

    def size(key: str, axis: int, default: int) -> int:
        shape = shapes.get(key, ())
        return shape[axis] if len(shape) > axis else default

    img, txt = re.escape(image), re.escape(text)
    sizes = {}
    stages = count(rf'{img}layers\.(\d+)\.blocks\.')
    if stages:
        sizes['embed_dim'] = size(f'{image}patch_embed.proj.weight', 0, base.embed_dim)
        sizes['patch'] = size(f'{image}patch_embed.proj.weight', 2, base.patch)
        sizes['depths'] = tuple(count(rf'{img}layers\.{s}\.blocks\.(\d+)\.') for s in range(stages))
        sizes['num_heads'] = tuple(
            size(f'{image}layers.{s}.blocks.0.attn.relative_position_bias_table', 1, 1)
            for s in range(stages)
        )
        ffn = size(f'{image}layers.0.blocks.0.mlp.fc1.weight', 0, base.mlp_ratio * base.embed_dim)
        sizes['mlp_ratio'] = ffn // sizes['embed_dim']
        sizes['fused'] = count(rf'{img}layers\.(\d+\.blocks\.\d+)\.attn\.alpha_i2t')
    layers = count(rf'{txt}encoder\.layer\.(\d+)\.')
    if layers:
        embeddings = f'{text}embeddings'
        sizes['text_layers'] = layers
        sizes['vocab'] = size(f'{embeddings}.word_embeddings.weight', 0, base.vocab)
        sizes['text_dim'] = size(f'{embeddings}.word_embeddings.weight', 1, base.text_dim)
        sizes['positions'] = size(f'{embeddings}.position_embeddings.weight', 0, base.positions)
        sizes['token_types'] = size(
            f'{embeddings}.token_type_embeddings.weight', 0, base.token_types
        )
        sizes['text_ffn'] = size(
            f'{text}encoder.layer.0.intermediate.dense.weight', 0, base.text_ffn
        )
    for key in ('cross_modal_text_transform.weight', 'cross_modal_text_transform_itc.weight'):
        if key in shapes:
            sizes['joint_dim'] = shapes[key][0]
    if 'neck.lateral_convs.0.conv.weight' in shapes:
        sizes['fpn_dim'] = size('neck.lateral_convs.0.conv.weight', 0, base.fpn_dim)
        sizes['tower'] = count(r'bbox_head\.dyhead_tower\.(\d+)\.')
        sizes['logit_classes'] = size('bbox_head.cls_logits.bias', 0, base.logit_classes)
        sizes['levels'] = count(r'neck\.fpn_convs\.(\d+)\.')
    return free_sizes(shapes, replace(base, **sizes))
