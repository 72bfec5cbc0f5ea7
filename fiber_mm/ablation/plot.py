"""A picture of scores over variants and seeds."""

from __future__ import annotations

import io
from collections.abc import Mapping

from fiber_mm.visualization import OKABE_ITO, hex_of


def plot_scores(
    scores: Mapping[str, str],
    variants: Mapping[str, str],
    values: Mapping[str, Mapping[str, Mapping[int, float | None]]],
    dpi: int = 130,
) -> bytes:
    """One panel for each score: a dot for each seed and a line at their mean.

    Args:
        scores: Name of a score to its title.
        variants: Name of a variant to its title, from top to bottom.
        values: Variant, score, seed to value; absent and None ones are not drawn.
        dpi: Resolution.

    Returns:
        The bytes of a PNG, equal for equal input.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(4, len(scores))
    rows = -(-len(scores) // columns)
    size = (3.2 + 2.2 * columns, rows * (0.9 + 0.24 * len(variants)))
    # Without pyplot: no global state, no display.
    picture = Figure(figsize=size, dpi=dpi, layout='constrained')
    FigureCanvasAgg(picture)
    panels = picture.subplots(rows, columns, sharey=True, squeeze=False)
    for axes, (score, title) in zip(panels.flat, scores.items()):
        for place, name in enumerate(variants):
            found = values[name].get(score, {})
            points = {seed: value for seed, value in found.items() if value is not None}
            if not points:
                continue
            colour = hex_of(OKABE_ITO[4])
            axes.plot(list(points.values()), [place] * len(points), 'o', color=colour, ms=3.5)
            mean = sum(points.values()) / len(points)
            axes.plot([mean, mean], [place - 0.35, place + 0.35], color=hex_of(OKABE_ITO[5]))
        axes.set_title(title, fontsize=9, loc='left')
        axes.set_yticks(range(len(variants)), list(variants.values()), fontsize=7)
        axes.set_ylim(len(variants) - 0.5, -0.5)
        axes.set_xlim(0, 1.06 * axes.get_xlim()[1])  # whole dots
        axes.locator_params(axis='x', nbins=4)
        axes.tick_params(axis='x', labelsize=7)
        axes.grid(alpha=0.25)
        axes.spines[['top', 'right']].set_visible(False)
    for axes in panels.flat[len(scores) :]:
        axes.set_axis_off()
    buffer = io.BytesIO()
    picture.savefig(buffer, format='png', metadata={'Software': None})
    return buffer.getvalue()
