"""What the demo runs, and what it is measured by."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fiber_mm.engine.checkpoint import write_atomic
from fiber_mm.engine.config import ConfigError
from fiber_mm.engine.launch import available_cores

#: The config that the demo trains; everything else about the training is in it.
CONFIG = 'fiber_nano_1xb8_demo_shapes'
#: The config of the coarse stage, where there is one, and its steps: what twelve minutes allow.
COARSE_CONFIG = 'pretrain/fiber_nano_1xb32_1k_shapes'
COARSE_STEPS = 200
WORK_DIR = Path('work_dirs/demo')

#: Scores to reach, by their names in metrics.json, and what to call them.
TARGETS: dict[str, float] = {
    'ap50_seen': 0.80,
    'ap50_unseen': 0.50,
    'refexp_accuracy': 0.80,
    'phrase_recall_at_1': 0.85,
}
TITLES: dict[str, str] = {
    'ap50_seen': 'AP50, seen classes',
    'ap50_unseen': 'AP50, held-out classes',
    'refexp_accuracy': 'Referring expressions',
    'phrase_recall_at_1': 'Phrase recall@1',
}


@dataclass(frozen=True)
class DemoSettings:
    """How to run the demo.

    Attributes:
        work_dir: Where everything but the data goes.
        config: Path or name of the config to train.
        seed: Seed of the training; None keeps the config's.
        resume: Whether finished steps are kept and an interrupted training goes on.
        cfg_options: Settings that override the config's.
        processes: How many processes share training and evaluation; None: as many of 4, 2, 1 as
            there are cores, and one where there is a GPU.
        steps: Steps of the training; None keeps the config's. Schedules are stretched with it.
        coarse_steps: Steps of pre-training on captions, whose weights start the training; 0 leaves
            that stage out, and what the report says of it.
        coarse_config: Path or name of the config of that stage; ``cfg_options`` are not for it.
    """

    work_dir: Path = WORK_DIR
    config: str = CONFIG
    seed: int | None = None
    resume: bool = False
    cfg_options: Mapping[str, Any] = field(default_factory=dict)
    processes: int | None = None
    steps: int | None = None
    coarse_steps: int = COARSE_STEPS
    coarse_config: str = COARSE_CONFIG

    def __post_init__(self) -> None:
        if self.coarse_steps < 0:
            raise ValueError(f'coarse_steps must be 0 or more, got {self.coarse_steps}')
        for name in ('steps', 'processes'):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f'{name} must be at least 1, got {value}')

    @property
    def process_count(self) -> int:
        """``processes``, chosen by the machine where it is None."""
        if self.processes is not None:
            return self.processes
        if torch.cuda.is_available():
            return 1
        return next(count for count in (4, 2, 1) if count <= available_cores())

    @property
    def train_dir(self) -> Path:
        """Logs and checkpoints of the training."""
        return self.work_dir / 'train'

    @property
    def checkpoint(self) -> Path:
        """The trained weights."""
        return self.work_dir / 'model.pth'

    @property
    def model_config(self) -> Path:
        """The config that the weights belong to."""
        return self.work_dir / 'config.py'

    @property
    def tokenizer(self) -> Path:
        """A copy of the tokenizer, so that the model works without the data."""
        return self.work_dir / 'tokenizer'

    @property
    def coarse_dir(self) -> Path:
        """All of the coarse stage."""
        return self.work_dir / 'coarse'

    @property
    def coarse_train_dir(self) -> Path:
        """Logs and checkpoints of the coarse stage."""
        return self.coarse_dir / 'train'

    @property
    def coarse_checkpoint(self) -> Path:
        """The weights of the coarse stage."""
        return self.coarse_dir / 'model.pth'

    @property
    def coarse_model_config(self) -> Path:
        """The config that these belong to; there as soon as the stage has begun."""
        return self.coarse_dir / 'config.py'

    @property
    def record(self) -> Path:
        """Which steps are finished."""
        return self.work_dir / 'steps.json'

    @property
    def metrics(self) -> Path:
        """All numbers."""
        return self.work_dir / 'metrics.json'

    @property
    def report(self) -> Path:
        """The page."""
        return self.work_dir / 'report.html'


class StepRecord:
    """Which steps are finished, how long they took, what they found; kept in a file.

    Args:
        path: JSON file; written after every step.
        fresh: Whether what it says is forgotten.
    Raises:
        ConfigError: if the file is damaged.
    """

    def __init__(self, path: Path, fresh: bool) -> None:
        self.path = path
        self.steps: dict[str, dict[str, Any]] = {}
        if not fresh and path.is_file():
            try:
                self.steps = json.loads(path.read_text(encoding='utf-8'))
            except ValueError as error:
                raise ConfigError(
                    f'{path}, which says what steps are finished, is damaged ({error}): delete it, '
                    'and they are made anew, or begin without --resume'
                ) from error

    def done(self, name: str) -> bool:
        """Whether a step is finished."""
        return name in self.steps

    def finish(self, name: str, seconds: float, result: Mapping[str, Any]) -> None:
        """Note a finished step."""
        self.steps[name] = dict(seconds=round(seconds, 1), result=dict(result))
        write_atomic(self.path, (json.dumps(self.steps, indent=1) + '\n').encode())

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of each finished step."""
        return {name: step['seconds'] for name, step in self.steps.items()}
