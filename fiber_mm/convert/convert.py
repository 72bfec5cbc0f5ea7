"""Original checkpoints to ours and back."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from fiber_mm.convert.arch import BASE, Arch, free_sizes, infer
from fiber_mm.convert.derived import derived_buffer
from fiber_mm.convert.io import ConversionError
from fiber_mm.convert.layout import FAMILIES, Entry, layout

# GOLD's frozen copy of the whole model, refreshed from the weights as training goes on.
_COPY = 'copy_module.'
_COPY_REASON = 'second copy of the model (GOLD), refreshed from the weights'


@dataclass
class Report:
    """What became of every tensor; keys of the source unless said otherwise.

    Attributes:
        family: the kind of the checkpoint.
        used: source key -> key in the result.
        kept: tensors kept beside the model's weights, with the reason.
        dropped: tensors that are not in the result, with the reason.
        fresh: keys of the target for which the source has nothing, with the reason.
        resized: keys of the result whose bias table was resized, with `from -> to`.
    """

    family: str
    used: dict[str, str] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    fresh: dict[str, str] = field(default_factory=dict)
    resized: dict[str, str] = field(default_factory=dict)


@dataclass
class Converted:
    """Result of a conversion.

    Attributes:
        state_dict: the tensors, under our keys or, on the way back, the original's.
        unused: original key -> parameter that our model does not hold.
        meta: family and sizes, plain values.
        report: what became of every tensor.
    """

    state_dict: dict[str, Tensor]
    unused: dict[str, Tensor]
    meta: dict[str, Any]
    report: Report


# How the keys of each kind of checkpoint begin; the kind with most keys is taken.
_KINDS = {
    'fine': r'(fusion_backbone|rpn)\.',
    'coarse': r'(vit_model|text_transformer)\.',
    'ours, fine': r'(backbone\.encoder|neck|bbox_head)\.',
    'ours, coarse': r'encoder\.(image|text)\.',
    'roberta': r'(roberta\.)?(embeddings|encoder\.layer|lm_head|pooler)\.',
    'swin': r'(patch_embed|layers\.\d+\.(blocks|downsample))\.',
}


def _kind_of(keys: Iterable[str]) -> str:
    keys = [key.removeprefix(_COPY) for key in keys]
    counts = {
        kind: sum(bool(re.match(pattern, key)) for key in keys) for kind, pattern in _KINDS.items()
    }
    kind = max(counts, key=counts.get)
    if 2 * counts[kind] < len(keys):
        raise ConversionError(
            f'these {len(keys)} keys are those of no checkpoint known here; the first are '
            f'{keys[:5]}. Known: original FIBER (vit_model. ..., fusion_backbone. ...), ours '
            '(encoder.image. ..., backbone.encoder.image. ...), Hugging Face RoBERTa '
            '(roberta. ...) and official Swin (patch_embed., layers. ...)'
        )
    return kind


def detect_family(state: Mapping[str, Tensor]) -> str:
    """The kind of checkpoint that a set of keys belongs to.

    Among families of the same prefix the one with the fewest missing and unknown keys wins, so
    a single wrong key does not change the answer.

    Args:
        state: key -> tensor, without containers and `module.`.

    Returns:
        A key of `FAMILIES`, or `'roberta'`, `'swin'` or `'ours'`.

    Raises:
        ConversionError: the keys are those of no family known here.
    """
    kind = _kind_of(state)
    if kind in ('roberta', 'swin'):
        return kind
    if kind.startswith('ours'):
        return 'ours'
    coarse = kind == 'coarse'

    def distance(name: str) -> int:
        entries = layout(name, arch_of(state, name, 'infer'))
        wanted = {key for key, entry in entries.items() if not entry.derived}
        return len(wanted - state.keys()) + sum(
            key not in entries and not key.startswith(_COPY) for key in state
        )

    return min((name for name, f in FAMILIES.items() if f.coarse == coarse), key=distance)


def arch_of(state: Mapping[str, Tensor], family: str, arch: Arch | str | None = None) -> Arch:
    """Sizes to expect: FIBER-Base (None), those given, or those of the tensors ('infer')."""
    if isinstance(arch, Arch):
        return arch
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    if arch == 'infer':
        kind = FAMILIES[family]
        return infer(_ours_names(shapes, kind), kind.image[1], kind.text[1])
    return free_sizes(shapes, BASE)


def _ours_names(shapes: Mapping[str, Any], kind: Any) -> dict[str, Any]:
    """Shapes under our names, as far as prefixes tell; enough to read the sizes off."""
    pairs = [
        kind.image,
        kind.text,
        ('rpn.head.', 'bbox_head.'),
        ('fusion_backbone.backbone.fpn.fpn_inner2.', 'neck.lateral_convs.0.conv.'),
    ]
    renamed = {}
    for key, shape in shapes.items():
        for theirs, ours in pairs:
            if key.startswith(theirs):
                key = ours + key[len(theirs) :]
                break
        renamed[key] = shape
    levels = {key.split('.')[2] for key in renamed if key.startswith('bbox_head.scales.')}
    renamed |= {f'neck.fpn_convs.{level}.conv.bias': () for level in levels}
    return renamed


def check_keys(
    state: Mapping[str, Tensor],
    wanted: Mapping[str, tuple[int, ...] | None],
    optional: Iterable[str],
    what: str,
    ignore: Sequence[str] = (),
) -> None:
    """Compare keys and shapes with what is wanted.

    Args:
        state: the tensors.
        wanted: key -> shape, None for any.
        optional: wanted keys that may be absent.
        what: name of the layout, for the error.
        ignore: regular expressions (`re.search`) of keys that may be missing or unknown. Where
            there is such a key, its shape must fit.

    Raises:
        ConversionError: listing every missing, unknown and mis-shaped key, each unknown one
            with the wanted key nearest to it.
    """

    def checked(key: str) -> bool:
        return not any(re.search(pattern, key) for pattern in ignore)

    optional = set(optional)
    missing = [k for k in wanted if k not in state and k not in optional and checked(k)]
    unknown = [k for k in state if k not in wanted and checked(k)]
    shaped = [
        f'{k}: has {tuple(state[k].shape)}, wanted {shape}'
        for k, shape in wanted.items()
        if k in state and shape is not None and tuple(state[k].shape) != tuple(shape)
    ]
    if not (missing or unknown or shaped):
        return
    lines = [
        f'the checkpoint does not match {what}: {len(missing)} keys missing, '
        f'{len(unknown)} unknown, {len(shaped)} of another shape'
    ]
    lines += [f'  missing  {key}' for key in missing]
    for i, key in enumerate(unknown):
        # Only the first few: the search takes tens of milliseconds a key.
        near = difflib.get_close_matches(key, missing or wanted, 1, 0.6) if i < 10 else []
        lines.append(f'  unknown  {key}' + (f' (nearest wanted: {near[0]})' if near else ''))
    lines += [f'  shape    {line}' for line in shaped]
    if unknown and any(key.startswith('module.') for key in unknown):
        lines.append('`module.` is stripped only where every key begins with it')
    raise ConversionError('\n'.join(lines))


def resolve_family(state: Mapping[str, Tensor], family: str = 'auto') -> str:
    """`family`, or the detected one for `'auto'`.

    Raises:
        ConversionError: `family` is unknown, or the keys are those of another stage.
    """
    known = [*FAMILIES, 'roberta', 'swin']
    if family != 'auto' and family not in known:
        raise ConversionError(f'unknown family {family!r}; known are auto, {", ".join(known)}')
    seen = detect_family(state)
    if family in ('auto', seen):
        return seen
    raise ConversionError(
        f'the checkpoint was said to be of family {family!r}, but its {len(state)} keys are those '
        f'of {seen!r}, as {next(iter(state))!r}; leave the family out or name that one'
    )


def to_ours(
    state: Mapping[str, Tensor],
    family: str = 'auto',
    arch: Arch | str | None = None,
    ignore: Sequence[str] = (),
) -> Converted:
    """An original FIBER checkpoint as weights of our model.

    Args:
        state: original key -> tensor (see :func:`fiber_mm.convert.io.pick_tensors`).
        family: a key of `FAMILIES`, or `'auto'`.
        arch: sizes; None stands for FIBER-Base, the released size, `'infer'` for any.
        ignore: regular expressions of keys that may be missing or unknown.

    Raises:
        ConversionError: the keys or shapes are not those of the family.
    """
    family = resolve_family(state, family)
    if family not in FAMILIES:
        raise ConversionError(
            'these are our own keys already; say `--to original` for the way back'
            if family == 'ours'
            else f'a {family} checkpoint holds initial weights; use `initial_weights`'
        )
    arch = arch_of(state, family, arch)
    entries = layout(family, arch)
    report = Report(family)
    copies = [key for key in state if key.startswith(_COPY) and key[len(_COPY) :] in entries]
    report.dropped |= dict.fromkeys(copies, _COPY_REASON)
    rest = {key: value for key, value in state.items() if key not in report.dropped}
    shapes = {key: None if entry.derived else entry.shape for key, entry in entries.items()}
    check_keys(
        rest,
        shapes,
        (k for k, e in entries.items() if e.derived),
        f'family {family!r} ({FAMILIES[family].about})',
        ignore,
    )

    ours, unused = {}, {}
    for key, entry in entries.items():
        if key not in rest:
            if entry.ours:
                report.fresh[entry.ours] = 'missing, as allowed'
        elif entry.ours:
            ours[entry.ours] = rest[key]
            report.used[key] = entry.ours
        elif entry.derived:
            report.dropped[key] = entry.reason
        else:
            unused[key] = rest[key]
            report.kept[key] = entry.reason
    report.dropped |= {key: 'unknown, as allowed' for key in rest if key not in entries}
    return Converted(ours, unused, {'family': family, 'arch': asdict(arch)}, report)


def ours_family(state: Mapping[str, Tensor]) -> str:
    """The family whose original layout suits a state dict of ours, from its keys.

    Raises:
        ConversionError: the keys are not ours.
    """
    seen = _kind_of(state)
    if not seen.startswith('ours'):
        raise ConversionError(
            f'these {len(state)} keys are not those of a fiber_mm model but of '
            f'kind {seen!r}; the first are {list(state)[:5]}'
        )
    names = [name for name, f in FAMILIES.items() if f.coarse == (seen == 'ours, coarse')]

    def distance(name: str) -> int:
        kind = FAMILIES[name]
        shapes = {key: tuple(value.shape) for key, value in state.items()}
        entries = layout(name, infer(shapes, kind.image[1], kind.text[1]))
        return len({entry.ours for entry in entries.values() if entry.ours} ^ state.keys())

    return min(names, key=distance)


def to_original(
    state: Mapping[str, Tensor],
    unused: Mapping[str, Tensor] | None = None,
    family: str = 'auto',
    ignore: Sequence[str] = (),
) -> Converted:
    """Weights of our model in the original's layout, the exact reverse of :func:`to_ours`.

    Parameters that our model does not hold come from `unused`. Where that has none (a model
    trained here), they get the values that the original starts them with: 1 for LayerNorm
    weights, 0 for the rest; nothing reads them. Derived buffers are computed again, the
    training queues are left out.

    Args:
        state: our key -> tensor.
        unused: original key -> tensor, as kept by :func:`to_ours`.
        family: a key of `FAMILIES`, or `'auto'`.
        ignore: regular expressions of our keys that may be missing or unknown.

    Raises:
        ConversionError: the keys or shapes are not those of our model of that family.
    """
    unused = unused or {}
    family = ours_family(state) if family == 'auto' else family
    if family not in FAMILIES:
        raise ConversionError(f'unknown family {family!r}; known are auto, {", ".join(FAMILIES)}')
    kind = FAMILIES[family]
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    arch = infer(shapes, kind.image[1], kind.text[1])
    if 'rpn.head.cls_logits.weight' in unused:
        arch = replace(arch, logit_classes=len(unused['rpn.head.cls_logits.weight']))
    entries = layout(family, arch)
    check_keys(
        state,
        {e.ours: e.shape for e in entries.values() if e.ours},
        (),
        f'our model of family {family!r} ({kind.about})',
        ignore,
    )
    check_keys(
        unused,
        {k: e.shape for k, e in entries.items() if not (e.ours or e.derived)},
        entries,
        f'the unused parameters of family {family!r}',
        ignore,
    )

    report, original = Report(family), {}
    for key, entry in entries.items():
        if entry.ours in state:
            original[key] = state[entry.ours]
            report.used[entry.ours] = key
        elif key in unused:
            original[key] = unused[key]
            report.kept[key] = entry.reason
        elif entry.derived:
            value = derived_buffer(key, arch)
            if value is None:
                report.fresh[key] = entry.reason
            else:
                original[key] = value
                report.fresh[key] = f'{entry.reason}, computed'
        elif not entry.ours:
            original[key] = _start_value(entry)
            report.fresh[key] = f'{entry.reason}; start value'
    return Converted(original, {}, {'family': family, 'arch': asdict(arch)}, report)


def _start_value(entry: Entry) -> Tensor:
    norm = 'LayerNorm' in entry.original and entry.original.endswith('weight')
    return torch.full(entry.shape, 1.0 if norm else 0.0)
