"""How a campaign runs, and where its numbers are."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fiber_mm.demo.settings import DemoSettings
from fiber_mm.engine.checkpoint import write_atomic

from .variants import VARIANTS, check_names

WORK_DIR = Path('work_dirs/ablations')
DATA = Path('data/shapes_ablations')
REPORT = Path('docs/results_shapes.md')


@dataclass(frozen=True)
class AblationSettings:
    """What to measure.

    Attributes:
        variants: Names in ``VARIANTS``.
        seeds: Every variant is trained with each of them.
        coarse_steps, fine_steps: Steps of the stages, the same for all variants; None takes those
            of the configs. Schedules are stretched or shortened with them.
        work_dir: Where everything but the data goes.
        data: Folder of the Shapes images; made if it is not there.
        processes: Processes that share a run; None: as the demo chooses.
        cfg_options: Settings that override those of both configs.
        coarse_options, fine_options: The same of one of them; they come after ``cfg_options``.
        report: The document; its plot goes beside it.

    Raises:
        ValueError: for unknown variants, seeds or numbers of steps that cannot be.
    """

    variants: tuple[str, ...] = tuple(VARIANTS)
    seeds: tuple[int, ...] = (0, 1, 2)
    coarse_steps: int | None = None
    fine_steps: int | None = None
    work_dir: Path = WORK_DIR
    data: Path = DATA
    processes: int | None = None
    cfg_options: Mapping[str, Any] = field(default_factory=dict)
    coarse_options: Mapping[str, Any] = field(default_factory=dict)
    fine_options: Mapping[str, Any] = field(default_factory=dict)
    report: Path = REPORT

    def __post_init__(self) -> None:
        object.__setattr__(self, 'variants', check_names(self.variants))
        object.__setattr__(self, 'seeds', tuple(dict.fromkeys(self.seeds)))
        if not self.seeds or min(self.seeds) < 0:
            raise ValueError(f'seeds: want one or more, each at least 0, got {self.seeds}')
        for name in ('coarse_steps', 'fine_steps', 'processes'):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f'{name} must be at least 1, got {value}')

    @property
    def process_count(self) -> int:
        """``processes``, chosen by the machine where it is None."""
        return DemoSettings(processes=self.processes).process_count

    @property
    def campaign(self) -> Path:
        """What the numbers of the work folder were measured with."""
        return self.work_dir / 'campaign.json'

    def coarse_dir(self, name: str, seed: int) -> Path:
        """Folder of a coarse run."""
        return self.work_dir / 'coarse' / f'{name}_seed{seed}'

    def fine_dir(self, name: str, seed: int) -> Path:
        """Folder of a fine run."""
        return self.work_dir / 'fine' / f'{name}_seed{seed}'

    def coarse_result(self, name: str, seed: int) -> Path:
        """Numbers of a coarse run; written when it is finished."""
        return self.work_dir / 'results' / f'coarse_stage_{name}_seed{seed}.json'

    def result(self, name: str, seed: int) -> Path:
        """Numbers of a variant and seed; written when it is finished."""
        return self.work_dir / 'results' / f'{name}_seed{seed}.json'

    def command(self) -> str:
        """The command that measures this."""
        words = ['python', 'tools/ablations.py']
        if self.variants != tuple(VARIANTS):
            words += ['--variants', *self.variants]
        words += ['--seeds', *map(str, self.seeds)]
        for name in ('coarse_steps', 'fine_steps', 'processes'):
            if getattr(self, name) is not None:
                words += [f'--{name.replace("_", "-")}', str(getattr(self, name))]
        for name, default in (('work_dir', WORK_DIR), ('data', DATA)):
            if getattr(self, name) != default:
                words += [f'--{name.replace("_", "-")}', str(getattr(self, name))]
        for name in ('cfg_options', 'coarse_options', 'fine_options'):
            options = getattr(self, name)
            if options:
                words += [f'--{name.replace("_", "-")}', *(f'{k}={v}' for k, v in options.items())]
        return shlex.join(words)


def read_json(path: Path) -> dict[str, Any] | None:
    """Content of a file of numbers; None where there is none.

    Raises:
        ValueError: if it is no JSON.
    """
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except json.JSONDecodeError as error:
        raise ValueError(f'{path} is no JSON ({error}): delete it to measure this again') from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file of numbers, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(content, indent=1) + '\n').encode())
