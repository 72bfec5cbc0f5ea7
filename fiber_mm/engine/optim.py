"""Parameter groups by substring rules, and mixed precision without a GPU.

The original chooses learning rate and decay by looking for substrings in a parameter's full name.
mmengine's ``paramwise_cfg`` cannot say that: the first matching entry of ``custom_keys`` switches
all other rules off, and "bias" means a parameter of exactly that name.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper
from torch import nn

from fiber_mm.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS


@dataclass(frozen=True)
class GroupRule:
    """Factors for the parameters whose name contains one of some substrings.

    Args:
        contains: substring, or several of which one must occur.
        lr_mult: factor on the learning rate.
        decay_mult: factor on the weight decay.
        without: the rule does not hold for names that contain one of these.
    """

    contains: str | Sequence[str]
    lr_mult: float = 1.0
    decay_mult: float = 1.0
    without: str | Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in ('contains', 'without'):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        if not self.contains or not all(self.contains):
            raise ValueError(f'a rule needs substrings that are not empty, got {self.contains}')

    def matches(self, name: str) -> bool:
        """Whether the rule holds for a parameter of this full name."""
        return any(part in name for part in self.contains) and not any(
            part in name for part in self.without
        )


# Fine stage: the language backbone learns ten times slower; everything with "bias" in its name,
# position-bias tables, `bias_lang` and `bias0` too, twice as fast and without decay. Norms decay.
FINE_RULES = (
    dict(contains='encoder.text.', lr_mult=0.1),
    dict(contains='bias', lr_mult=2.0, decay_mult=0.0),
)

# Coarse stage, all tasks: the fusion parts, and the heads of pre-training and captioning.
# `norm_i2t_i.weight`, `alpha_*` and the classifiers' norms do decay.
COARSE_RULES = (
    dict(contains=('cross_modal', 'i2t', 't2i', 'mlm_score', 'itm_score'), lr_mult=5.0),
    dict(contains=('vqa_classifier', 'nlvr2_classifier'), lr_mult=50.0),
    dict(
        contains=('bias', 'LayerNorm.weight', 'norm.weight', 'norm1.weight', 'norm2.weight'),
        decay_mult=0.0,
    ),
)

PRESETS = dict(fine=FINE_RULES, coarse=COARSE_RULES)


def parameter_factors(
    names: Iterable[str], rules: Sequence[GroupRule]
) -> dict[str, tuple[float, float]]:
    """Learning rate and decay factors per name: the products over all rules that match."""
    factors = {}
    for name in names:
        lr_mult = decay_mult = 1.0
        for rule in rules:
            if rule.matches(name):
                lr_mult *= rule.lr_mult
                decay_mult *= rule.decay_mult
        factors[name] = lr_mult, decay_mult
    return factors


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class FiberOptimWrapperConstructor:
    """Builds an optimiser with one group per pair of learning rate and weight decay.

    Args:
        optim_wrapper_cfg: config of the wrapper, with ``optimizer`` inside.
        paramwise_cfg: either ``preset`` ('fine' or 'coarse') or ``rules``, a list of the arguments
            of :class:`GroupRule`. The factors of all rules that match multiply.

    Raises:
        ValueError: a rule of ``rules`` matches no parameter: most likely a typing error.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        if 'optimizer' not in optim_wrapper_cfg:
            raise ValueError(f'optim_wrapper has no optimizer, only {sorted(optim_wrapper_cfg)}')
        self.optim_wrapper_cfg = dict(optim_wrapper_cfg)
        self.optimizer_cfg = dict(self.optim_wrapper_cfg.pop('optimizer'))
        settings = dict(paramwise_cfg or {})
        preset = settings.pop('preset', None)
        if preset is not None and preset not in PRESETS:
            raise ValueError(f'paramwise_cfg: preset is one of {sorted(PRESETS)}, got {preset!r}')
        # A preset serves models that lack some of its parts; rules written by hand must match.
        self.must_match = preset is None
        rules = PRESETS[preset] if preset else settings.pop('rules', ())
        if settings:
            raise ValueError(
                f"paramwise_cfg knows preset or rules; got also {sorted(settings)}. mmengine's "
                'custom_keys belong to its own constructor.'
            )
        self.rules = [GroupRule(**rule) for rule in rules]

    def __call__(self, model: nn.Module) -> OptimWrapper:
        model = getattr(model, 'module', model)
        params = dict(model.named_parameters())
        if self.must_match:
            self._check_rules(list(params))
        lr, decay = self.optimizer_cfg['lr'], self.optimizer_cfg.get('weight_decay')
        if decay is None and any(rule.decay_mult != 1 for rule in self.rules):
            raise ValueError('rules with decay_mult need optimizer.weight_decay')
        groups: dict[tuple, dict] = {}
        for name, factors in parameter_factors(params, self.rules).items():
            if not params[name].requires_grad:
                continue
            lr_mult, decay_mult = factors
            group = groups.setdefault(factors, dict(params=[], lr=lr * lr_mult))
            if decay is not None:
                group['weight_decay'] = decay * decay_mult
            group['params'].append(params[name])
        if not groups:
            raise ValueError(f'{type(model).__name__} has no parameter to train')
        logger = MMLogger.get_current_instance()
        for group in groups.values():
            logger.info(
                f'optimiser group: {len(group["params"])} tensors, lr {group["lr"]:g}, '
                f'weight decay {group.get("weight_decay", "default")}'
            )
        optimizer = OPTIMIZERS.build(dict(self.optimizer_cfg, params=list(groups.values())))
        wrapper_cfg = dict(self.optim_wrapper_cfg)
        wrapper_cfg.setdefault('type', 'OptimWrapper')
        return OPTIM_WRAPPERS.build(wrapper_cfg, default_args=dict(optimizer=optimizer))

    def _check_rules(self, names: list[str]) -> None:
        parts = {part for name in names for part in name.split('.')} | set(names)
        for rule in self.rules:
            if any(rule.matches(name) for name in names):
                continue
            near = [m for part in rule.contains for m in difflib.get_close_matches(part, parts, 2)]
            hint = f'; near: {", ".join(near)}' if near else ''
            raise ValueError(f'the rule for {rule.contains} matches no parameter{hint}')


@OPTIM_WRAPPERS.register_module()
class FiberBf16OptimWrapper(OptimWrapper):
    """bfloat16 autocast on any device, CPUs too; needs no loss scale.

    mmengine's ``AmpOptimWrapper`` refuses to be built without an accelerator.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[Any]:
        """Autocast around the forward pass."""
        device_type = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device_type, dtype=torch.bfloat16):
            yield
