"""What every kind of original checkpoint holds, and where each tensor goes in ours.

Our parameters keep the original's names below a few prefixes:

====================================================  =================================
original                                              ours
====================================================  =================================
``vit_model.`` (coarse)                               ``encoder.image.``
``text_transformer.`` (coarse)                        ``encoder.text.``
``fusion_backbone.backbone.body.`` (fine)             ``backbone.encoder.image.``
``fusion_backbone.language_backbone.body.model.``     ``backbone.encoder.text.``
``fusion_backbone.backbone.fpn.fpn_inner2..4``        ``neck.lateral_convs.0..2.conv``
``fusion_backbone.backbone.fpn.fpn_layer2..4``        ``neck.fpn_convs.0..2.conv``
``fusion_backbone.backbone.fpn.top_blocks.p6, p7``    ``neck.fpn_convs.3, 4.conv``
``rpn.head.``                                         ``bbox_head.``
heads of the coarse stage                             the same name
====================================================  =================================

Tensors that our models do not hold are of two kinds. *Derived* buffers follow from the sizes
and are dropped; they are computed again for the way back. *Unused* parameters take no part in
what the checkpoint's own task computes; they are kept beside the model's weights, so that the
way back gives every one of them unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fiber_mm.convert.arch import Arch

Shape = tuple[int, ...]

_INDEX = 'buffer derived from the window size'
_MASK = 'buffer derived from window and image size'
_POSITIONS = 'buffer derived from the number of positions'
_ANCHORS = 'buffer derived from the strides of the pyramid'
_QUEUE = 'training queue, filled anew'
_POOLER = "RoBERTa's own pooler, never called"
_CROSS_NORM = 'text-to-image attention has no LayerNorm of its own, never called'
_GATE = 'gate of a text layer without text-to-image attention'
_CLS_LOGITS = 'closed-set classifier, replaced by token logits, never called'
_ATT_LAYER = 'projection for a text layer that sees no image'
_OTHER_TASK = 'head of another task, not trained and not called in this one'


@dataclass(frozen=True)
class Entry:
    """One tensor of an original checkpoint.

    Attributes:
        original: its key there.
        ours: its key in our state dict; None if our model does not hold it.
        shape: its shape; None where it may be any (queues).
        derived: a buffer that is dropped and computed again.
        reason: why our model does not hold it.
    """

    original: str
    ours: str | None
    shape: Shape | None
    derived: bool = False
    reason: str = ''


@dataclass(frozen=True)
class Family:
    """One kind of original checkpoint.

    Attributes:
        container: top-level key under which the file holds its tensors.
        image, text: (original, our) prefix of Swin's and RoBERTa's keys.
        norm_query: Swin's fused blocks have `norm_i2t_i`.
        heads: groups of `_coarse_heads` that our model of this task holds.
        stored: groups that the file holds as well, although the task does not use them.
        queue: the file holds the queues of image-text contrast.
        about: what it is, for people.
    """

    container: str
    image: tuple[str, str]
    text: tuple[str, str]
    norm_query: bool
    about: str
    heads: tuple[str, ...] = ()
    stored: tuple[str, ...] = ()
    queue: bool = False

    @property
    def coarse(self) -> bool:
        """Whether it belongs to the coarse stage."""
        return self.container == 'state_dict'


def _coarse(
    about: str, heads: tuple[str, ...], stored: tuple[str, ...] = (), queue: bool = False
) -> Family:
    return Family(
        'state_dict',
        ('vit_model.', 'encoder.image.'),
        ('text_transformer.', 'encoder.text.'),
        True,
        about,
        heads,
        stored,
        queue,
    )


def _fine(about: str, norm_query: bool) -> Family:
    return Family(
        'model',
        ('fusion_backbone.backbone.body.', 'backbone.encoder.image.'),
        ('fusion_backbone.language_backbone.body.model.', 'backbone.encoder.text.'),
        norm_query,
        about,
    )


_FUSED = ('text_transform', 'image_transform', 'poolers')

FAMILIES: dict[str, Family] = {
    'coarse_pretrain': _coarse(
        'coarse pre-training (MLM, ITM, ITC)', _FUSED + ('itc', 'temp', 'mlm', 'itm'), queue=True
    ),
    'coarse_vqa': _coarse('VQAv2', _FUSED + ('vqa',), ('itc',)),
    'coarse_nlvr2': _coarse('NLVR2', _FUSED + ('nlvr2',), ('itc',)),
    'coarse_caption': _coarse(
        'captioning (MLE, GOLD, CIDEr)',
        ('text_transform', 'mlm', 'att_layers'),
        ('image_transform', 'poolers', 'itc'),
    ),
    'coarse_retrieval_itc': _coarse('retrieval, dual encoder', ('itc', 'temp'), _FUSED, queue=True),
    'coarse_retrieval_itm': _coarse('retrieval, fused', _FUSED + ('itm',), ('itc',)),
    'coarse_init': _coarse('backbone that starts the fine stage', ()),
    'fine': _fine('detection (pre-training, COCO, LVIS, ODinW, Flickr30k)', False),
    'fine_refexp': _fine('referring expressions (RefCOCO/+/g)', True),
}


def layout(family: str, arch: Arch) -> dict[str, Entry]:
    """Every tensor of an original checkpoint.

    Args:
        family: a key of `FAMILIES`.
        arch: sizes of the model.

    Returns:
        Original key -> entry, in the order of the original's modules.
    """
    kind = FAMILIES[family]
    entries = [
        *_image(kind, arch),
        *_text(kind, arch),
        *(_coarse_heads(kind, arch) if kind.coarse else _detection_heads(arch)),
    ]
    return {entry.original: entry for entry in entries}


def _linear(name: str, out_dim: int, in_dim: int, *kernel: int) -> Iterator[tuple[str, Shape]]:
    yield f'{name}.weight', (out_dim, in_dim, *kernel)
    yield f'{name}.bias', (out_dim,)


def _norm(name: str, dim: int) -> Iterator[tuple[str, Shape]]:
    yield f'{name}.weight', (dim,)
    yield f'{name}.bias', (dim,)


def image_params(
    arch: Arch, fused: bool = True, norm_query: bool = True, stage_norms: bool = False
) -> Iterator[tuple[str, Shape]]:
    """Names and shapes of Swin's parameters.

    Args:
        arch: sizes.
        fused: with image-to-text attention in the last blocks.
        norm_query: with `norm_i2t_i` there.
        stage_norms: `norm1..3` on the outputs of stages 1 to 3 (fine) instead of one final
            `norm` (coarse and official Swin).
    """
    yield from _linear('patch_embed.proj', arch.embed_dim, 3, arch.patch, arch.patch)
    yield from _norm('patch_embed.norm', arch.embed_dim)
    for stage, block in arch.blocks:
        dim, at = arch.dim(stage), f'layers.{stage}.blocks.{block}'
        yield from _norm(f'{at}.norm1', dim)
        yield (
            f'{at}.attn.relative_position_bias_table',
            ((2 * arch.window - 1) ** 2, arch.num_heads[stage]),
        )
        yield from _linear(f'{at}.attn.qkv', 3 * dim, dim)
        yield from _linear(f'{at}.attn.proj', dim, dim)
        if fused and (stage, block) in arch.fused_blocks:
            yield f'{at}.attn.alpha_i2t', (1,)
            yield from _linear(f'{at}.attn.qkv_text_i2t', 2 * dim, arch.text_dim)
            yield from _linear(f'{at}.attn.qkv_i2t', dim, dim)
            yield from _linear(f'{at}.attn.proj_i2t', dim, dim)
            if norm_query:
                yield from _norm(f'{at}.attn.norm_i2t_i', dim)
        yield from _norm(f'{at}.norm2', dim)
        yield from _linear(f'{at}.mlp.fc1', arch.mlp_ratio * dim, dim)
        yield from _linear(f'{at}.mlp.fc2', dim, arch.mlp_ratio * dim)
        if block == arch.depths[stage] - 1 and stage < len(arch.depths) - 1:
            yield f'layers.{stage}.downsample.reduction.weight', (2 * dim, 4 * dim)
            yield from _norm(f'layers.{stage}.downsample.norm', 4 * dim)
    if stage_norms:
        for stage in range(1, len(arch.depths)):
            yield from _norm(f'norm{stage}', arch.dim(stage))
    else:
        yield from _norm('norm', arch.final_dim)


def image_buffers(arch: Arch, masks: bool) -> Iterator[tuple[str, Shape, str]]:
    """Names, shapes and reasons of Swin's derived buffers.

    `masks`: with the shift masks, which a Swin of fixed input size (32 windows' side) stores in
    every odd block of the stages that are larger than one window.
    """
    area = arch.window**2
    for stage, block in arch.blocks:
        at = f'layers.{stage}.blocks.{block}'
        yield f'{at}.attn.relative_position_index', (area, area), _INDEX
        per_side = 2 ** (len(arch.depths) - 1 - stage)
        if masks and block % 2 and per_side > 1:
            yield f'{at}.attn_mask', (per_side**2, area, area), _MASK


def text_params(arch: Arch, fused: bool = True) -> Iterator[tuple[str, Shape]]:
    """Names and shapes of the RoBERTa parameters that our encoder holds."""
    dim = arch.text_dim
    yield 'embeddings.word_embeddings.weight', (arch.vocab, dim)
    yield 'embeddings.position_embeddings.weight', (arch.positions, dim)
    yield 'embeddings.token_type_embeddings.weight', (arch.token_types, dim)
    yield from _norm('embeddings.LayerNorm', dim)
    # Width of the image tokens that each fused layer sees.
    widths = [arch.dim(stage) for stage, _ in arch.fused_blocks]
    for layer in range(arch.text_layers):
        at = f'encoder.layer.{layer}'
        if fused and layer >= arch.first_fused_layer:
            width = widths[layer - arch.first_fused_layer]
            yield f'{at}.alpha_t2i', (1,)
            yield from _linear(f'{at}.crossattention_t2i.self.query', dim, dim)
            yield from _linear(f'{at}.crossattention_t2i.self.key', dim, width)
            yield from _linear(f'{at}.crossattention_t2i.self.value', dim, width)
            yield from _linear(f'{at}.crossattention_t2i.output.dense', dim, dim)
        for name in ('query', 'key', 'value'):
            yield from _linear(f'{at}.attention.self.{name}', dim, dim)
        yield from _linear(f'{at}.attention.output.dense', dim, dim)
        yield from _norm(f'{at}.attention.output.LayerNorm', dim)
        yield from _linear(f'{at}.intermediate.dense', arch.text_ffn, dim)
        yield from _linear(f'{at}.output.dense', dim, arch.text_ffn)
        yield from _norm(f'{at}.output.LayerNorm', dim)


def _image(kind: Family, arch: Arch) -> Iterator[Entry]:
    theirs, ours = kind.image
    for name, shape in image_params(arch, True, kind.norm_query, stage_norms=not kind.coarse):
        yield Entry(theirs + name, ours + name, shape)
    for name, shape, reason in image_buffers(arch, masks=kind.coarse):
        yield Entry(theirs + name, None, shape, True, reason)


def _text(kind: Family, arch: Arch) -> Iterator[Entry]:
    theirs, ours = kind.text
    yield Entry(f'{theirs}embeddings.position_ids', None, (1, arch.positions), True, _POSITIONS)
    for name, shape in text_params(arch):
        yield Entry(theirs + name, ours + name, shape)
    if not kind.coarse:
        return
    for layer in range(arch.text_layers):
        at = f'{theirs}encoder.layer.{layer}'
        if layer < arch.first_fused_layer:
            yield Entry(f'{at}.alpha_t2i', None, (1,), reason=_GATE)
        else:
            for name, shape in _norm(f'{at}.crossattention_t2i.output.LayerNorm', arch.text_dim):
                yield Entry(name, None, shape, reason=_CROSS_NORM)
    for name, shape in _linear(f'{theirs}pooler.dense', arch.text_dim, arch.text_dim):
        yield Entry(name, None, shape, reason=_POOLER)


def _coarse_heads(kind: Family, arch: Arch) -> Iterator[Entry]:
    joint, text, image = arch.joint_dim, arch.text_dim, arch.final_dim
    pair = 2 * joint
    groups = {
        'text_transform': [*_linear('cross_modal_text_transform', joint, text)],
        'image_transform': [*_linear('cross_modal_image_transform', joint, image)],
        'poolers': [
            *_linear('cross_modal_image_pooler.dense', joint, joint),
            *_linear('cross_modal_text_pooler.dense', joint, joint),
        ],
        'itc': [
            *_linear('cross_modal_text_transform_itc', joint, text),
            *_linear('cross_modal_image_transform_itc', joint, image),
            *_linear('cross_modal_image_pooler_itc.dense', joint, joint),
            *_linear('cross_modal_text_pooler_itc.dense', joint, joint),
        ],
        'temp': [('temp', ())],
        'mlm': [
            ('mlm_score.bias', (arch.vocab,)),
            *_linear('mlm_score.transform.dense', joint, joint),
            *_norm('mlm_score.transform.LayerNorm', joint),
            ('mlm_score.decoder.weight', (arch.vocab, joint)),
        ],
        'itm': [*_linear('itm_score.fc', 2, pair), *_linear('rank_output', 1, pair)],
        'vqa': [
            *_linear('vqa_classifier.0', pair, pair),
            *_norm('vqa_classifier.1', pair),
            *_linear('vqa_classifier.3', arch.answers, pair),
        ],
        'nlvr2': [
            *_linear('nlvr2_classifier.0', pair, 2 * pair),
            *_norm('nlvr2_classifier.1', pair),
            *_linear('nlvr2_classifier.3', 2, pair),
        ],
    }
    for group in kind.heads:
        for name, shape in groups.get(group, ()):
            yield Entry(name, name, shape)
    for group in kind.stored:
        for name, shape in groups[group]:
            yield Entry(name, None, shape, reason=_OTHER_TASK)
    if 'att_layers' in kind.heads:
        # The text layers paired with the last stage see the image as it is; the fused ones
        # before them through a projection to the width of their own stage.
        for layer in range(arch.text_layers - arch.depths[-1]):
            used = layer >= arch.first_fused_layer
            width = arch.dim(len(arch.depths) - 2)
            for name, shape in _linear(f'cross_modal_att_layers.{layer}', width, image):
                yield Entry(name, name if used else None, shape, reason='' if used else _ATT_LAYER)
    if kind.queue:
        for name in (
            'image_queue',
            'text_queue',
            'image_input_queue',
            'text_input_queue',
            'text_input_mask_queue',
            'queue_ptr',
            'queue_total',
        ):
            yield Entry(name, None, None, True, _QUEUE)


def _detection_heads(arch: Arch) -> Iterator[Entry]:
    dim, stages = arch.fpn_dim, len(arch.depths)
    # (original module, our module, input width, kernel); mmdet's FPN counts its convolutions
    # from 0, the extra levels behind those of the stages.
    convs = []
    for i, stage in enumerate(range(1, stages)):
        convs.append((f'fpn_inner{stage + 1}', f'lateral_convs.{i}', arch.dim(stage), 1))
        convs.append((f'fpn_layer{stage + 1}', f'fpn_convs.{i}', dim, 3))
    for i in range(stages - 1, arch.levels):
        convs.append((f'top_blocks.p{i + 7 - stages}', f'fpn_convs.{i}', dim, 3))
    for theirs, ours, width, kernel in convs:
        for leaf, shape in _linear('', dim, width, kernel, kernel):
            yield Entry(
                f'fusion_backbone.backbone.fpn.{theirs}{leaf}', f'neck.{ours}.conv{leaf}', shape
            )
    for name, shape in _head_params(arch):
        yield Entry(f'rpn.head.{name}', f'bbox_head.{name}', shape)
    for name, shape in _linear('rpn.head.cls_logits', arch.logit_classes, dim, 1, 1):
        yield Entry(name, None, shape, reason=_CLS_LOGITS)
    for level in range(arch.levels):
        yield Entry(f'rpn.anchor_generator.cell_anchors.{level}', None, (1, 4), True, _ANCHORS)


def _head_params(arch: Arch) -> Iterator[tuple[str, Shape]]:
    dim = arch.fpn_dim
    yield 'log_scale', (1,)
    yield 'bias_lang', (arch.text_dim,)
    yield 'bias0', (1,)
    for i in range(arch.tower):
        at = f'dyhead_tower.{i}'
        for conv in range(3):
            yield from _linear(f'{at}.DyConv.{conv}.conv', dim, dim, 3, 3)
            yield from _norm(f'{at}.DyConv.{conv}.bn', dim)
        yield from _linear(f'{at}.AttnConv.1', 1, dim, 1, 1)
        yield from _linear(f'{at}.relu.fc.0', dim // 4, dim)
        yield from _linear(f'{at}.relu.fc.2', 4 * dim, dim // 4)
        yield from _linear(f'{at}.offset', 27, dim, 3, 3)
    yield from _linear('bbox_pred', 4, dim, 1, 1)
    yield from _linear('centerness', 1, dim, 1, 1)
    yield from _linear('dot_product_projection_text', dim, arch.text_dim)
    for level in range(arch.levels):
        yield f'scales.{level}.scale', (1,)
