"""The coarse stage: a step of pre-training, and all pairs of some images and captions."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import Config
from torch import Tensor

from fiber_mm.config_lookup import config_folder
from fiber_mm.core.config import FiberCfg, FusionCfg
from fiber_mm.models.losses.itm import matching_loss
from fiber_mm.models.multimodal import FiberPretrain
from fiber_mm.registry import MODELS
from fiber_mm.structures import TextBatch

from .cases import Case, Spec
from .flops import EncoderFlops, encoder_flops

PAIRS = 2
IMAGES, CAPTIONS = 4, 16
# Tokens of a caption with padding, as released.
PRETRAIN_TOKENS, RERANK_TOKENS = 40, 50


def coarse_model() -> dict:
    """Config of the released model."""
    path = config_folder() / '_base_' / 'models' / 'fiber_swin-b_pretrain.py'
    return Config.fromfile(str(path)).model.to_dict()


def build_model(spec: Spec, side: int, **settings: Any) -> FiberPretrain:
    """The model with random weights and half open gates; no tokenizer, no files.

    Raises: ValueError: if ``side``, in pixels, is not a multiple of 32.
    """
    if side % 32:
        raise ValueError(f'the coarse stage takes images of a multiple of 32 pixels, got {side}')
    torch.manual_seed(0)
    cfg = dict(spec.model or coarse_model(), data_preprocessor=None, **settings)
    cfg['swin'] = dict(cfg['swin'], window_size=side // 32)
    model = MODELS.build(cfg)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if 'alpha_' in name:
                parameter.fill_(0.5)
    return model.to(spec.device)


def square_side(spec: Spec, side: int = 384) -> int:
    """Side of the square image.

    Raises: ValueError: for an image that is no square.
    """
    if spec.size is None:
        return side
    if spec.size[0] != spec.size[1]:
        raise ValueError(f'the coarse stage takes square images, got {spec.size}')
    return spec.size[0]


def make_texts(count: int, tokens: int, vocab_size: int, device: str) -> TextBatch:
    """Made-up captions of different lengths; 15 % of the words are hidden."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(4, vocab_size, (count, tokens), generator=generator)
    lengths = torch.randint(tokens // 2, tokens + 1, (count, 1), generator=generator)
    place = torch.arange(tokens)
    ids = torch.where(place < lengths, ids, 1)
    ids[:, 0] = 0
    ids.scatter_(1, lengths - 1, 2)
    hidden = (place > 0) & (place < lengths - 1) & (place % 7 == 3)
    positions = hidden.flatten().nonzero()[:, 0]
    labels = ids.flatten()[positions]
    texts = (ids, ids != 1, ids.where(~hidden, 4), positions, labels)
    return TextBatch(*(t.to(device) for t in texts))


# ---- one step of pre-training ----------------------------------------------------------------


def unshared_losses(model: FiberPretrain, images: Tensor, texts: TextBatch) -> dict[str, Tensor]:
    """The same losses with every use of an input encoded anew, as the original computes them."""
    ids, mask, encoder = texts.input_ids, texts.attention_mask, model.encoder
    joint = model.joint(encoder(images, texts.masked_ids, mask))
    labels = torch.full_like(ids, -100).flatten()
    labels[texts.masked_positions] = texts.masked_labels
    mlm = F.cross_entropy(model.mlm_score(joint.text).flatten(0, 1), labels)

    image = model.contrast_image(encoder.image_trunk(images)).pooled
    text = model.contrast_text(encoder.text_trunk(ids, mask)).pooled
    similarity = image @ text.t() / model.temp
    own = torch.arange(len(images), device=images.device)
    itc = (F.cross_entropy(similarity, own) + F.cross_entropy(similarity.t(), own)) / 2

    other = own.roll(1)
    pooled = model.joint(
        encoder(
            torch.cat([images, images, images[other]]),
            torch.cat([ids, ids[other], ids]),
            torch.cat([mask, mask[other], mask]),
        )
    ).pooled
    return dict(loss_itc=itc, loss_itm=matching_loss(model.itm_score(pooled), len(images)),
                loss_mlm=mlm)  # fmt: skip


def fill_queue(model: FiberPretrain, side: int, tokens: int, device: str) -> None:
    """A full queue, of one image and one caption."""
    size, width = model.queue.size, model.cross_modal_text_pooler_itc.dense.out_features
    features = F.normalize(torch.randn(size, width, device=device), dim=1)
    ids = torch.full((size, tokens), 5, device=device)
    pixels = torch.zeros(1, 3, side, side, dtype=torch.uint8, device=device)
    model.queue.put(features, features, pixels.expand(size, -1, -1, -1), ids, ids == 5)


def pretrain_case(spec: Spec, negatives: str) -> Case:
    """Two pairs: forward and backward of all three losses, in training mode."""
    side = square_side(spec)
    model = build_model(spec, side, negatives=negatives).train()
    vocab = model.encoder.cfg.roberta.vocab_size
    images = torch.randn(PAIRS, 3, side, side, generator=torch.Generator().manual_seed(1))
    images = images.to(spec.device)
    texts = make_texts(PAIRS, PRETRAIN_TOKENS, vocab, spec.device)
    if negatives == 'queue' and not spec.plain:
        model.queue.mean = torch.full((3, 1, 1), 120.0, device=spec.device)
        model.queue.std = torch.full((3, 1, 1), 60.0, device=spec.device)
        fill_queue(model, side, PRETRAIN_TOKENS, spec.device)
    losses_of = functools.partial(unshared_losses, model) if spec.plain else model.loss

    def run() -> None:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=spec.precision == 'bf16'):
            losses = losses_of(images, texts)
        sum(loss for name, loss in losses.items() if name.startswith('loss_')).backward()
        model.zero_grad(set_to_none=True)

    return Case(run, pretrain_flops(model, side, texts, negatives))


def alone_flops(cfg: FiberCfg, side: int, tokens: int) -> EncoderFlops:
    """Operations of both encoders that never meet, in ``image_trunk`` and ``text_trunk``."""
    return encoder_flops(
        dataclasses.replace(cfg, fusion=FusionCfg(num_blocks=0)), side, side, tokens
    )


def head_flops(model: FiberPretrain, side: int, tokens: int, words: int = 0) -> int:
    """Operations of the joint space's transforms and poolers for a pair; of ``words`` guesses."""
    cfg = model.encoder.cfg
    image, text = model.cross_modal_image_transform, model.cross_modal_text_transform
    seen = (side // cfg.swin.patch_size // 2 ** (len(cfg.swin.depths) - 1)) ** 2
    joint = text.out_features
    count = 2 * (seen * image.in_features + tokens * text.in_features) * joint + 4 * joint**2
    return count + 2 * words * joint * (joint + cfg.roberta.vocab_size)


def pretrain_flops(model: FiberPretrain, side: int, texts: TextBatch, negatives: str) -> int:
    """Operations of a step with shared trunks, forward and backward."""
    batch, tokens = texts.input_ids.shape
    cfg = model.encoder.cfg
    parts, alone = encoder_flops(cfg, side, side, tokens), alone_flops(cfg, side, tokens)
    images, captions = (2, 3) if negatives == 'queue' else (1, 2)
    forward = images * parts.image_trunk + captions * parts.text_trunk + 4 * parts.fuse
    forward += alone.image_trunk - parts.image_trunk + alone.text_trunk - parts.text_trunk
    forward = batch * (forward + 4 * head_flops(model, side, tokens))
    return 3 * (forward + head_flops(model, 0, 0, len(texts.masked_positions)))


# ---- all pairs -------------------------------------------------------------------------------


def rerank_case(spec: Spec) -> Case:
    """Scores of all pairs of four images and sixteen captions."""
    side = square_side(spec)
    model = build_model(spec, side).eval()
    encoder = model.encoder
    images = torch.randn(IMAGES, 3, side, side, generator=torch.Generator().manual_seed(1))
    images = images.to(spec.device)
    texts = make_texts(CAPTIONS, RERANK_TOKENS, encoder.cfg.roberta.vocab_size, spec.device)
    ids, mask = texts.input_ids, texts.attention_mask

    def shared() -> list[Tensor]:
        image, text = encoder.image_trunk(images), encoder.text_trunk(ids, mask)
        pairs = (encoder.fuse(image.select(i).repeat(CAPTIONS), text) for i in range(IMAGES))
        return [model.itm_score(model.joint(pair).pooled) for pair in pairs]

    def unshared() -> list[Tensor]:
        pairs = (encoder(image.expand(CAPTIONS, -1, -1, -1), ids, mask) for image in images)
        return [model.itm_score(model.joint(pair).pooled) for pair in pairs]

    @torch.inference_mode()
    def run() -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=spec.precision == 'bf16'):
            return torch.stack(unshared() if spec.plain else shared()).softmax(-1)[..., 1]

    parts = encoder_flops(encoder.cfg, side, side, RERANK_TOKENS)
    pair = parts.fuse + head_flops(model, side, RERANK_TOKENS)
    flops = IMAGES * parts.image_trunk + CAPTIONS * parts.text_trunk + IMAGES * CAPTIONS * pair
    return Case(run, flops)


CASES: dict[str, Callable[[Spec], Case]] = dict(
    pretrain_step=functools.partial(pretrain_case, negatives='batch'),
    pretrain_step_queue=functools.partial(pretrain_case, negatives='queue'),
    itm_rerank=rerank_case,
)
