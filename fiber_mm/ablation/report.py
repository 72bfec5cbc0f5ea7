"""The document: what was measured, with its spread, and what is missing."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fiber_mm.engine.checkpoint import write_atomic

from .campaign import finished
from .plot import plot_scores
from .runs import FINE_SCORES, SCORES, scores_of
from .settings import AblationSettings, read_json
from .variants import GROUPS, VARIANTS

#: Score -> seed -> value; a value is None where the score is undefined.
Values = dict[str, dict[int, float | None]]
MISSING = 'missing'
NOT_THERE = '–'


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation.

    Attributes:
        mean: Of all values.
        deviation: With n - 1; None for one value.
        count: How many values.
    """

    mean: float
    deviation: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """That of one value or more."""
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), deviation, len(values))


def measured(settings: AblationSettings) -> dict[str, Values]:
    """Scores of every variant, of the seeds that are finished.

    Raises:
        CampaignError: if some were measured with another variant of the name.
    """
    out: dict[str, Values] = {}
    for name in settings.variants:
        values: Values = {score: {} for score in scores_of(name)}
        for seed in settings.seeds:
            found = finished(settings, name, seed)
            if found is not None:
                for score in values:
                    values[score][seed] = found['scores'][score]
        out[name] = values
    return out


def write_report(settings: AblationSettings) -> Path:
    """Write the document, and its plot beside it, from the numbers that are there.

    Args:
        settings: Of the campaign; ``variants`` and ``seeds`` say what the document speaks of.

    Returns:
        The document.
    """
    values = measured(settings)
    picture = settings.report.with_suffix('.png')
    lines = _head()
    if any(seeds for scores in values.values() for seeds in scores.values()):
        settings.report.parent.mkdir(parents=True, exist_ok=True)
        titles = {name: VARIANTS[name].title for name in values}
        write_atomic(picture, plot_scores(SCORES, titles, values))
        lines += _conditions(settings, values)
        lines += ['## Scores', '', f'![scores of each seed, and their mean]({picture.name})', '']
        lines += _scores(settings, values)
        lines += _differences(settings, values)
    else:
        picture.unlink(missing_ok=True)
        lines += ['**Not measured yet.** There are no numbers so far.', '']
    lines += _variants(settings)
    lines += _how_to()
    settings.report.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(settings.report, ('\n'.join(_wrapped(lines)).rstrip() + '\n').encode())
    return settings.report


def cell(values: Mapping[int, float | None] | None, seeds: Sequence[int]) -> str:
    """One entry of the table.

    Args:
        values: By seed; None where the variant has no such score.
        seeds: That were asked for.

    Returns:
        Mean ± standard deviation, with the number of seeds where some are missing.
    """
    if values is None:
        return NOT_THERE
    numbers = [value for value in values.values() if value is not None]
    if not values:
        return MISSING
    if not numbers:
        return 'undefined'
    text = _number(Spread.of(numbers))
    if len(values) < len(seeds):
        text += f' ({len(values)} of {len(seeds)} seeds)'
    elif len(numbers) == 1:
        text += ' (1 seed)'
    if len(numbers) < len(values):
        text += f' ({len(values) - len(numbers)} undefined)'
    return text


def difference(
    own: Mapping[int, float | None] | None, other: Mapping[int, float | None] | None
) -> str:
    """Mean difference of two variants over the seeds that both have, with its deviation.

    It is in bold where it is larger than the deviation of the differences.
    """
    if own is None or other is None:
        return NOT_THERE
    pairs = [
        own[seed] - other[seed]
        for seed in own
        if own[seed] is not None and other.get(seed) is not None
    ]
    if not pairs:
        return MISSING
    spread = Spread.of(pairs)
    text = _number(spread, '+')
    if spread.deviation is None or abs(spread.mean) <= spread.deviation:
        return text
    return f'**{text}**'


def _number(spread: Spread, sign: str = '') -> str:
    text = f'{spread.mean:{sign}.3f}'
    if spread.deviation is None:
        return text
    return f'{text} ± {spread.deviation:.3f}'


def _head() -> list[str]:
    return [
        '# Ablations on Shapes',
        '',
        "The paper's ablations in small: FIBER-nano on [Shapes](shapes.md), first the coarse stage "
        '(images and captions), then the fine stage (boxes and phrases). Written by '
        '`tools/ablations.py` from the numbers of finished runs.',
        '',
    ]


def _conditions(settings: AblationSettings, values: Mapping[str, Values]) -> list[str]:
    made: Mapping[str, Any] = read_json(settings.campaign) or {}
    sizes = made.get('sizes', {})
    runs = [len(next(iter(scores.values()))) for scores in values.values()]
    wanted = len(settings.variants) * len(settings.seeds)

    def pixels(name: str) -> str:
        return ' and '.join(map(str, sizes.get(name, ()))) or 'unknown'

    lines = [
        '## How it was measured',
        '',
        f'- **Finished:** {sum(runs)} of {wanted} runs'
        + (f'; the others are marked as {MISSING}.' if sum(runs) < wanted else '.'),
        f'- **Seeds:** {", ".join(map(str, settings.seeds))}. Values are mean ± sample standard '
        'deviation over them. **Differences smaller than the spread say nothing.**',
        f'- **Steps:** coarse stage {made.get("coarse_steps")} of {made.get("coarse_batch")} '
        f'pairs, fine stage {made.get("fine_steps")} of {made.get("fine_batch")} images, the same '
        'for all variants. A variant with a coarse stage so has seen more images than one from '
        'scratch: equal is the budget of the fine stage alone.',
        f'- **Images:** {_splits(made)}, seed {made.get("data_seed")}, '
        f'version {made.get("data_version", 1)} of Shapes; '
        f'{pixels("coarse_pixels")} pixels in the coarse stage, {pixels("fine_pixels")} in the '
        f'training and {pixels("test_pixels")} in the evaluation of the fine stage.',
        f'- **Model:** Swin of width {sizes.get("swin_width")} and depths '
        f'{sizes.get("swin_depths")}, RoBERTa of width {sizes.get("text_width")} and '
        f'{sizes.get("text_layers")} layers, {sizes.get("fused_blocks")} fused blocks, where the '
        'variant says nothing else.',
        '- **Scores:** AP50 of the trained and of the held-out classes, all 48 names in one '
        "prompt; R@1 of the phrases of each image's first caption, a list of things; accuracy of "
        'referring expressions; image and text retrieval by the coarse checkpoint as it is, '
        'without fine-tuning, by contrast (ITC) and with re-ranking by matching (ITM). All in '
        '[0, 1], on all validation images. Learning rates are those of the configs for all '
        'variants; none was tuned for any.',
    ]
    start = sizes.get('local_init', [])
    if len(set(start)) > 1:
        lines.append(
            '- **Start values:** heads that look at neighbouring patches and words (`local_init`) '
            f'at the start of the {"coarse" if start[0] else "fine"} stage alone, so '
            f'{"not " if start[0] else ""}in the runs from scratch.'
        )
    if made.get('machine'):
        lines.append(f'- **Machine:** {made["machine"]}; processes: {made.get("processes")}.')
    lines += [
        '',
        'The campaign was begun by (`--seeds` and `--variants` may have grown since)',
        '',
        f'    {made.get("command", "unknown")}',
        '',
    ]
    return lines


def _splits(made: Mapping[str, Any]) -> str:
    return ', '.join(f'{count} of {split}' for split, count in made.get('images', {}).items())


def _scores(settings: AblationSettings, values: Mapping[str, Values]) -> list[str]:
    lines = [
        f'`{NOT_THERE}`: the variant has no such score (no coarse stage, or a head is missing); '
        f'`{MISSING}`: the run is not finished.',
        '',
    ]
    for group, names in _grouped(settings).items():
        rows = [
            [VARIANTS[name].title, *(cell(values[name].get(s), settings.seeds) for s in SCORES)]
            for name in names
        ]
        lines += [f'### {GROUPS[group]}', '', *_table(['variant', *SCORES.values()], rows), '']
    return lines


def _differences(settings: AblationSettings, values: Mapping[str, Values]) -> list[str]:
    rows = []
    for name in settings.variants:
        other = VARIANTS[name].against
        if other not in values:
            continue
        scores = [difference(values[name].get(s), values[other].get(s)) for s in SCORES]
        rows.append([VARIANTS[name].title, VARIANTS[other].title, *scores])
    if not rows:
        return []
    return [
        '## Differences',
        '',
        'Of the same seed with the same seed, mean ± sample standard deviation; bold where the '
        'mean is larger than that. With few seeds bold is a hint, no proof.',
        '',
        *_table(['variant', 'minus', *SCORES.values()], rows),
        '',
    ]


def _variants(settings: AblationSettings) -> list[str]:
    lines = ['## What is compared', '']
    lines += _table(
        ['`--variants`', 'what', 'compared with'],
        [
            [f'`{name}`', VARIANTS[name].about, _name(VARIANTS[name].against)]
            for name in settings.variants
        ],
    )
    if any(VARIANTS[name].group == 'blocks' for name in settings.variants):
        lines += [
            '',
            'FIBER-nano has 6 image blocks but 3 text layers. So the runs with 2, 4 and 6 fused '
            'blocks all have 6 text layers, in both stages, and are compared with each other '
            'alone, not with the other variants.',
        ]
    return [*lines, '']


def _how_to() -> list[str]:
    scores = ', '.join(FINE_SCORES.values())
    return [
        '## How to run it',
        '',
        '```',
        'python tools/ablations.py                      # all variants, seeds 0 1 2; hours',
        'python tools/ablations.py --variants scratch coarse --seeds 0 1',
        'python tools/ablations.py --report-only        # this document, from what is there',
        '```',
        '',
        'Runs come seed by seed. Each finished one leaves a file in `work_dirs/ablations/results`; '
        'the same command goes on where it was killed, in the middle of a training too. Variants '
        'with the same coarse stage share its checkpoint. Other steps, sizes, data or numbers of '
        'processes need another `--work-dir`: numbers of both could not be compared. '
        '`--coarse-steps` and `--fine-steps` set the budgets, `--cfg-options`, `--coarse-options` '
        'and `--fine-options` anything else of the configs '
        '`configs/pretrain/fiber_nano_1xb32_1k_shapes.py` and '
        '`configs/grounding/fiber_nano_1xb8_demo_shapes.py`. '
        f'Measured are {scores} after the fine stage, and retrieval after the coarse one.',
        '',
    ]


def _wrapped(lines: Sequence[str]) -> list[str]:
    """Paragraphs in lines of 100 characters; tables, headings and code stay as they are."""
    out: list[str] = []
    code = False
    for line in lines:
        code ^= line.startswith('```')
        if code or line.startswith(('|', '#', '    ', '![')):
            out.append(line)
            continue
        indent = '  ' if line.startswith('- ') else ''
        out += textwrap.wrap(
            line, 100, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        ) or ['']
    return out


def _grouped(settings: AblationSettings) -> dict[str, list[str]]:
    """Names of each group; with those that its variants are compared with, if they are there."""
    out: dict[str, list[str]] = {}
    for group in GROUPS:
        own = [name for name in settings.variants if VARIANTS[name].group == group]
        others = {VARIANTS[name].against for name in own}
        names = [name for name in settings.variants if name in own or name in others]
        if own:
            out[group] = names
    return out


def _name(name: str) -> str:
    return f'`{name}`' if name else ''


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ['---'] * len(head), *rows]
    return [f'| {" | ".join(line)} |' for line in lines]
