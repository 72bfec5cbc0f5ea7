"""Loss and score curves from the records that mmengine's local backend writes."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fiber_mm.visualization import OKABE_ITO, hex_of

Points = list[tuple[int, float]]


@dataclass
class RunCurves:
    """What a run logged.

    Attributes:
        train: Name of a training value (``loss``, ``lr``, ...) to its (iteration, value) points.
        scores: The same of validation scores (``coco/bbox_mAP_50``, ...).
    """

    train: dict[str, Points] = field(default_factory=dict)
    scores: dict[str, Points] = field(default_factory=dict)


def read_curves(work_dir: str | Path) -> RunCurves:
    """Read all records below a run's folder; of a resumed run the later ones count.

    Raises:
        FileNotFoundError: If there are none.
    """
    files = sorted(Path(work_dir).glob('*/vis_data/scalars.json'))
    if not files:
        raise FileNotFoundError(f'no */vis_data/scalars.json in {work_dir}: was there a training?')
    train: dict[str, dict[int, float]] = {}
    scores: dict[str, dict[int, float]] = {}
    for file in files:
        for line in file.read_text(encoding='utf-8').splitlines():
            record = json.loads(line)
            step = int(record.get('step', record.get('iter', 0)))
            target = train if 'loss' in record else scores
            for name, value in record.items():
                if name not in ('step', 'iter', 'epoch') and isinstance(value, (int, float)):
                    target.setdefault(name, {})[step] = float(value)
    return RunCurves(
        {name: sorted(points.items()) for name, points in train.items()},
        {name: sorted(points.items()) for name, points in scores.items()},
    )


def plot_curves(title: str, lines: Mapping[str, Points], dpi: int = 150) -> bytes:
    """Draw curves over iterations.

    Args:
        title: Above the picture.
        lines: Name of a line to its points.
        dpi: Resolution.

    Returns:
        The bytes of a PNG, equal for equal input.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Without pyplot: no global state, no display.
    picture = Figure(figsize=(5.4, 3.3), dpi=dpi, layout='constrained')
    FigureCanvasAgg(picture)
    axes = picture.add_subplot()
    order = (4, 5, 2, 3, 0, 1)  # the darker ones first
    for number, (name, points) in enumerate(lines.items()):
        colour = hex_of(OKABE_ITO[order[number % len(order)]])
        x, y = np.array(points, dtype=float).reshape(-1, 2).T
        marker = 'o' if len(points) < 20 else None
        axes.plot(x, y, color=colour, label=name, linewidth=1.7, marker=marker, markersize=4)
    axes.set_title(title, fontsize=11, loc='left')
    axes.set_xlabel('iteration', fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    axes.set_ylim(bottom=0)
    axes.spines[['top', 'right']].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    buffer = io.BytesIO()
    picture.savefig(buffer, format='png', metadata={'Software': None})
    return buffer.getvalue()
