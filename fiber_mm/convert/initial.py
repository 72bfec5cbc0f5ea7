"""Initial weights: the coarse stage for the fine one, RoBERTa and Swin for the encoder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

from torch import Tensor

from fiber_mm.convert.arch import Arch, infer
from fiber_mm.convert.convert import (
    Converted,
    Report,
    arch_of,
    check_keys,
    resolve_family,
    to_ours,
)
from fiber_mm.convert.io import ConversionError
from fiber_mm.convert.layout import (
    FAMILIES,
    Shape,
    image_buffers,
    image_params,
    layout,
    text_params,
)
from fiber_mm.core.window import resize_bias_table, window_of_table

_TABLE = 'relative_position_bias_table'
_HEAD = 'ImageNet classifier'
_LM_HEAD = 'language-model head, a new one is trained'
_POOLER = "RoBERTa's own pooler, never called"


def target_shapes(target: str, arch: Arch) -> dict[str, Shape]:
    """Keys and shapes of our model of a family; `'encoder'` is the encoder of the coarse stage."""
    name = 'coarse_init' if target == 'encoder' else target
    if name not in FAMILIES:
        raise ConversionError(
            f'unknown target {target!r}; known are encoder, {", ".join(FAMILIES)}'
        )
    return {entry.ours: entry.shape for entry in layout(name, arch).values() if entry.ours}


def initial_weights(
    sources: Sequence[Mapping[str, Tensor]],
    target: str = 'encoder',
    window: int | None = None,
    arch: Arch | str | None = None,
    ignore: Sequence[str] = (),
) -> Converted:
    """Start weights for a model, from one or more checkpoints of other kinds.

    Args:
        sources: original tensors, each of a coarse FIBER checkpoint (the original's or ours),
            of Hugging Face's RoBERTa or of the official Swin; later ones overwrite.
        target: family of the model to start: `fine`, `fine_refexp`, a coarse one, or `encoder`
            for the keys `encoder.image.*`, `encoder.text.*`, which suit the coarse models and
            `FiberBackbone`'s `init_cfg`.
        window: window side of the target, in tokens; None keeps the source's. Bias tables of
            another size are resized bicubically.
        arch: sizes of original FIBER sources, as in :func:`to_ours`.
        ignore: regular expressions of source keys that may be missing or unknown.

    Returns:
        Our keys; the report names the target's parameters that stay fresh.

    Raises:
        ConversionError: a source is of a kind that starts nothing, or is not complete.
    """
    found, reports = {}, []
    merged: Arch | None = None
    for state in sources:
        tensors, report, sizes = _source(state, arch, ignore)
        found |= tensors
        reports.append(report)
        merged = _merge(merged, sizes, report.family)
    if window:
        merged = replace(merged, window=window)
    wanted = target_shapes(target, merged)
    to_target = FAMILIES.get(target, FAMILIES['coarse_init'])

    total = Report('+'.join(report.family for report in reports))
    for report in reports:
        total.used |= report.used
        total.dropped |= report.dropped | report.kept
    result = {}
    for key, ours in list(total.used.items()):
        name = ours
        for kind, prefix in (('image', to_target.image[1]), ('text', to_target.text[1])):
            if ours.startswith(f'encoder.{kind}.'):
                name = prefix + ours[len(f'encoder.{kind}.') :]
        if name not in wanted:
            total.dropped[key] = f'not in a model of family {target!r}'
            del total.used[key]
            continue
        value = found[ours]
        if name.endswith(_TABLE) and len(value) != wanted[name][0]:
            total.resized[name] = f'window {window_of_table(value)} -> {merged.window}'
            value = resize_bias_table(value, merged.window)
        result[name] = value
        total.used[key] = name
    check_keys(result, {k: wanted[k] for k in result}, (), f'a model of family {target!r}')
    total.fresh = {key: 'not in the source' for key in wanted if key not in result}
    meta = {'family': target, 'initial_from': total.family, 'arch': asdict(merged)}
    return Converted(result, {}, meta, total)


def _merge(arch: Arch | None, sizes: Arch, family: str) -> Arch:
    """Sizes of several sources together: the image's from Swin, the text's from RoBERTa."""
    if arch is None or family not in ('roberta', 'swin'):
        return sizes
    names = (
        ('text_layers', 'text_dim', 'text_ffn', 'vocab', 'positions', 'token_types')
        if family == 'roberta'
        else ('embed_dim', 'depths', 'num_heads', 'window', 'mlp_ratio', 'patch')
    )
    return replace(arch, **{name: getattr(sizes, name) for name in names})


def _source(
    state: Mapping[str, Tensor], arch: Arch | str | None, ignore: Sequence[str]
) -> tuple[dict[str, Tensor], Report, Arch]:
    """Encoder weights of one source under `encoder.image.*` and `encoder.text.*`."""
    family = resolve_family(state)
    if family == 'roberta':
        return _roberta(state, ignore)
    if family == 'swin':
        return _swin(state, ignore)
    if family == 'ours':
        shapes = {key: tuple(value.shape) for key, value in state.items()}
        arch = infer(shapes, 'encoder.image.', 'encoder.text.')
        if not any(key.startswith('encoder.image.') for key in state):
            raise ConversionError(
                'a detector of ours needs no conversion to start another one: use `load_from`'
            )
        return dict(state), Report('ours', used={key: key for key in state}), arch
    if not FAMILIES[family].coarse:
        raise ConversionError(
            f'a checkpoint of family {family!r} starts no model; convert it and use `load_from`'
        )
    # Whether a released backbone file keeps what nothing reads is unknown: both are taken.
    arch = arch_of(state, family, arch)
    spare = [rf'^{re.escape(e.original)}$' for e in layout(family, arch).values() if not e.ours]
    converted = to_ours(state, family, arch, [*ignore, *spare])
    return converted.state_dict, converted.report, arch


def _roberta(
    state: Mapping[str, Tensor], ignore: Sequence[str]
) -> tuple[dict[str, Tensor], Report, Arch]:
    report = Report('roberta')
    names = {re.sub(r'^roberta\.', '', key): key for key in state}
    shapes = {f'encoder.text.{name}': tuple(state[key].shape) for name, key in names.items()}
    arch = infer(shapes, 'encoder.image.', 'encoder.text.')
    for name, key in list(names.items()):
        reason = next(
            (
                reason
                for prefix, reason in (
                    ('lm_head.', _LM_HEAD),
                    ('pooler.', _POOLER),
                    ('embeddings.position_ids', 'buffer derived from the number of positions'),
                )
                if name.startswith(prefix)
            ),
            None,
        )
        if reason:
            report.dropped[key] = reason
            del names[name]
    wanted = dict(text_params(arch, fused=False))
    tensors = {name: state[key] for name, key in names.items()}
    check_keys(tensors, wanted, (), 'Hugging Face RoBERTa (without `roberta.`)', ignore)
    report.used = {names[name]: f'encoder.text.{name}' for name in wanted if name in names}
    return {f'encoder.text.{k}': v for k, v in tensors.items() if k in wanted}, report, arch


def _swin(
    state: Mapping[str, Tensor], ignore: Sequence[str]
) -> tuple[dict[str, Tensor], Report, Arch]:
    report = Report('swin')
    shapes = {f'encoder.image.{key}': tuple(value.shape) for key, value in state.items()}
    arch = infer(shapes, 'encoder.image.', 'encoder.text.')
    # An official Swin has nothing fused; the fused parameters of the target stay fresh.
    arch = replace(arch, fused=min(6, len(arch.blocks)))
    buffers = {key: reason for key, _, reason in image_buffers(arch, masks=True)}
    # Smaller inputs than 32 windows' sides, or larger ones, have masks in other blocks.
    buffers |= {
        key: 'buffer derived from window and image size'
        for key in state
        if key.endswith('.attn_mask')
    }
    report.dropped = {key: reason for key, reason in buffers.items() if key in state}
    report.dropped |= {key: _HEAD for key in state if key.startswith('head.')}
    wanted = dict(image_params(arch, fused=False))
    tensors = {key: value for key, value in state.items() if key not in report.dropped}
    check_keys(tensors, wanted, (), 'the official Swin Transformer', ignore)
    report.used = {key: f'encoder.image.{key}' for key in wanted if key in tensors}
    return {f'encoder.image.{k}': v for k, v in tensors.items() if k in wanted}, report, arch
