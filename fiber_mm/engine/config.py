"""Errors for mistyped config keys that say which key, and which one was probably meant."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterable
from typing import Any

from mmengine.runner import Runner
from torch.utils.data import DataLoader

# Top-level keys with a meaning to mmengine, mmdet or fiber_mm beyond the runner's own arguments.
_OTHER_KEYS = (
    'activation_checkpointing',
    'compile',
    'custom_imports',
    'efficient_conv_bn_eval',
    'find_unused_parameters',
    'load_leave_out',
    'load_strict',
    'model_wrapper_cfg',
    'runner_type',
    'strategy',
    'sync_bn',
    'test_pipeline',
    'train_pipeline',
    'tta_model',
    'tta_pipeline',
    'val_pipeline',
)


_ENV_KEYS = ('cudnn_benchmark', 'dist_cfg', 'mp_cfg', 'resource_limit')
_HOOKS = (
    'checkpoint', 'logger', 'param_scheduler', 'runtime_info', 'sampler_seed', 'timer',
    'visualization',
)  # fmt: skip


class ConfigError(ValueError):
    """A config that cannot mean what it says; the message names the key."""


def known_keys() -> list[str]:
    """Top-level config keys that something reads."""
    arguments = set(inspect.signature(Runner.__init__).parameters) - {'self', 'cfg'}
    return sorted(arguments | set(_OTHER_KEYS))


def check_config(cfg: dict) -> None:
    """Refuse top-level keys that look like a mistyped known one.

    Configs may hold any helper variables at the top level, so an unknown key alone is no error;
    one that differs from a known key in a letter or two is.

    Raises:
        ConfigError: names the key and the known one.
    """
    _check_keys(cfg, known_keys(), 'top-level key {!r}')
    sections = {key: cfg.get(key) for key in ('env_cfg', 'default_hooks')}
    sections = {key: value if isinstance(value, dict) else {} for key, value in sections.items()}
    _check_keys(sections['env_cfg'], _ENV_KEYS, 'key env_cfg.{}')
    for name, hook in sections['default_hooks'].items():
        if isinstance(hook, dict) and 'type' not in hook:
            near = difflib.get_close_matches(name, _HOOKS, n=1)
            hint = f'did you mean {near[0]!r}?' if near else f'known are {", ".join(_HOOKS)}'
            raise ConfigError(f'config: default_hooks.{name} has no type; {hint}')


def _check_keys(cfg: dict, known: Iterable[str], what: str) -> None:
    for key in cfg:
        if key in known:
            continue
        for candidate in known:
            limit = 2 if min(len(key), len(candidate)) >= 9 else 1
            if _edit_distance(key, candidate) <= limit:
                raise ConfigError(
                    f'config: unknown {what.format(key)}; did you mean {candidate!r}?'
                )


def explain_build_error(error: BaseException) -> str | None:
    """Say which class of the config did not accept which key.

    Args:
        error: what building from a config raised.

    Returns:
        One sentence with the class, the key and the nearest accepted ones, or None where the error
        is of another kind.
    """
    found = re.search(r"(\w+)\S*\(\) got an unexpected keyword argument '(\w+)'", str(error))
    if not isinstance(error, TypeError) or not found:
        return None
    key = found[2]
    built = _class_under_construction(error, key)
    if built is None and found[1] == 'DataLoader':  # the runner builds it without a registry
        built = DataLoader
    name = built.__name__ if built is not None else found[1]
    accepted = _accepted_keys(built) if built is not None else []
    near = difflib.get_close_matches(key, accepted, n=2)
    text = f'config: {name} got an unknown key {key!r}'
    if near:
        return f'{text}; did you mean {" or ".join(map(repr, near))}?'
    return f'{text}; it accepts {", ".join(accepted)}' if accepted else text


def _class_under_construction(error: BaseException, key: str) -> Any:
    """The innermost class that mmengine's registry was building with this key."""
    built, trace = None, error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        if frame.f_code.co_name.startswith('build_') and key in frame.f_locals.get('args', ()):
            built = frame.f_locals.get('obj_cls') or built
        trace = trace.tb_next
    return built


def _accepted_keys(built: Any) -> list[str]:
    """Names of the arguments of a class's constructor, of its bases too if it passes them on."""
    names: list[str] = []
    classes: Iterable[Any] = built.__mro__ if inspect.isclass(built) else (built,)
    for cls in classes:
        target = cls.__dict__.get('__init__') if inspect.isclass(cls) else cls
        if not callable(target) or target is object.__init__:
            continue
        parameters = inspect.signature(target).parameters.values()
        kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        names += [p.name for p in parameters if p.kind in kinds and p.name != 'self']
        if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
            break
    return sorted(set(names))


def _edit_distance(a: str, b: str) -> int:
    """Insertions, deletions, replacements and swaps of neighbours that turn a into b."""
    rows = [list(range(len(b) + 1))]
    for i, x in enumerate(a, 1):
        row = [i]
        for j, y in enumerate(b, 1):
            cost = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                cost = min(cost, rows[-2][j - 2] + 1)
            row.append(cost)
        rows.append(row)
    return rows[-1][-1]
