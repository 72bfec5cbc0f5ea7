"""Operations of the detector, counted by formula: a multiplication and an addition are two.

Matrix products and convolutions only; norms, activations, softmax and interpolation are not
counted, padding of windows only where attention works on it.
"""

from __future__ import annotations

from typing import NamedTuple

from fiber_mm.core import FiberCfg, FusionPlan, SwinCfg


class EncoderFlops(NamedTuple):
    """Operations of the encoder's parts.

    Attributes:
        image_trunk: Of one image.
        frozen: The share of ``image_trunk`` in frozen stages, which has no backward.
        text_trunk: Of one text.
        fuse: Of one pair.
    """

    image_trunk: int
    frozen: int
    text_trunk: int
    fuse: int


def ceil_div(a: int, b: int) -> int:
    """Rounded up."""
    return -(-a // b)


def stage_sizes(cfg: SwinCfg, height: int, width: int) -> list[tuple[int, int]]:
    """(h, w) of every stage's map for an image of ``height`` x ``width`` pixels."""
    sizes = [(ceil_div(height, cfg.patch_size), ceil_div(width, cfg.patch_size))]
    for _ in cfg.depths[1:]:
        sizes.append(tuple(ceil_div(side, 2) for side in sizes[-1]))
    return sizes


def swin_block(cfg: SwinCfg, stage: int, size: tuple[int, int]) -> int:
    """One block without fusion."""
    dim, window = cfg.width(stage), cfg.window_size
    tokens = size[0] * size[1]
    padded = ceil_div(size[0], window) * ceil_div(size[1], window) * window**2
    attention = 8 * tokens * dim**2 + 4 * padded * dim * window**2
    return attention + 4 * tokens * dim * int(dim * cfg.mlp_ratio)


def encoder_flops(cfg: FiberCfg, height: int, width: int, tokens: int) -> EncoderFlops:
    """Operations of the encoder's parts for one image and one text.

    Args:
        cfg: Sizes.
        height, width: Of the image, in pixels.
        tokens: Of the text, padding included.
    """
    swin, roberta = cfg.swin, cfg.roberta
    plan = FusionPlan(swin.depths, roberta.num_layers, cfg.fusion.num_blocks)
    sizes = stage_sizes(swin, height, width)
    d = roberta.hidden_size
    text_layer = 2 * tokens * (4 * d * d + 2 * d * roberta.intermediate_size) + 4 * tokens**2 * d

    def after(stage: int, block: int) -> int:
        """The way down to the next stage."""
        if block < swin.depths[stage] - 1 or stage == len(sizes) - 1:
            return 0
        h, w = sizes[stage + 1]
        return 2 * h * w * 4 * swin.width(stage) * swin.width(stage + 1)

    h, w = sizes[0]
    embed = 2 * h * w * swin.in_channels * swin.patch_size**2 * swin.embed_dim
    trunk, frozen = embed, embed if swin.frozen_stages >= 0 else 0
    for stage, block in plan.alone:
        count = swin_block(swin, stage, sizes[stage]) + after(stage, block)
        trunk += count
        frozen += count if stage < swin.frozen_stages else 0
    fuse = 0
    for stage, block, _ in plan.pairs:
        c, n = swin.width(stage), sizes[stage][0] * sizes[stage][1]
        i2t = 4 * n * c * c + 4 * tokens * d * c + 4 * n * tokens * c
        t2i = 4 * tokens * d * d + 4 * n * c * d + 4 * n * tokens * d
        fuse += swin_block(swin, stage, sizes[stage]) + after(stage, block)
        fuse += text_layer + i2t + t2i
    return EncoderFlops(trunk, frozen, plan.text_start * text_layer, fuse)


def neck_and_head_flops(model, height: int, width: int, tokens: int) -> int:
    """Operations of FPN, tower and projections for one image and one prompt."""
    cfg = model.backbone.encoder.cfg
    sizes = stage_sizes(cfg.swin, height, width)
    sizes = [sizes[i] for i in model.backbone.out_indices]
    out = model.neck.out_channels
    count = sum(
        2 * h * w * out * (c + 9 * out) for (h, w), c in zip(sizes, model.backbone.out_channels)
    )
    while len(sizes) < model.neck.num_outs:
        sizes.append(tuple(ceil_div(side, 2) for side in sizes[-1]))
        count += 2 * sizes[-1][0] * sizes[-1][1] * 9 * out * out
    areas = [h * w for h, w in sizes]
    for block in model.bbox_head.dyhead_tower:
        c, o = block.offset.in_channels, block.relu.fc[0].in_features
        count += sum(areas) * 2 * 9 * c * 27
        # A level itself, its finer neighbour, its coarser one.
        outputs = sum(areas) + sum(areas[1:]) + sum(areas[1:])
        count += outputs * 2 * 9 * c * o
    channels = model.bbox_head.bbox_pred.in_channels
    count += 2 * tokens * model.bbox_head.dot_product_projection_text.in_features * channels
    return count + sum(areas) * 2 * channels * (tokens + 4 + 1)


def detector_flops(
    model, height: int, width: int, tokens: int, chunks: int = 1, training: bool = False
) -> int:
    """Operations of one image.

    Args:
        model: A ``FiberGrounder`` on ``FiberFPN`` or ``FPN``.
        height, width: Of the image, in pixels.
        tokens: Of each prompt, padding included.
        chunks: Prompts that share the image trunk.
        training: Forward and backward; a layer's backward is two more products of its size,
            recomputation is not counted.
    """
    encoder = encoder_flops(model.backbone.encoder.cfg, height, width, tokens)
    chunk = encoder.text_trunk + encoder.fuse + neck_and_head_flops(model, height, width, tokens)
    forward = encoder.image_trunk + chunks * chunk
    return 3 * forward - 2 * encoder.frozen if training else forward
