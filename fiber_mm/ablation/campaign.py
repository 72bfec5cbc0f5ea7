"""All runs of a campaign, one after the other; finished ones are not repeated."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from fiber_mm.shapes.generate import VERSION, generate_shapes

from .configs import coarse_base, digest, fine_base
from .runs import coarse_run, fine_run, remove_checkpoints
from .settings import AblationSettings, read_json, write_json
from .variants import VARIANTS, coarse_name


class CampaignError(RuntimeError):
    """What is in the work folder does not go with what is asked for."""


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        stage: ``'coarse'`` or ``'fine'``.
        name: Variant.
        seed: Of the training.
    """

    stage: str
    name: str
    seed: int


@dataclass
class Progress:
    """How far a campaign is, and how long the rest may take.

    Attributes:
        jobs: What is to be done, in order.
        say: Gets a line at a time.
        seconds: Of finished runs, by stage.
    """

    jobs: list[Job]
    say: Callable[[str], None] = print
    seconds: dict[str, list[float]] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    def begin(self, number: int) -> None:
        """Announce a run; ``number`` counts from 0."""
        job = self.jobs[number]
        self.say(
            f'ablations: run {number + 1} of {len(self.jobs)}: {job.stage} stage of {job.name}, '
            f'seed {job.seed}; elapsed {_clock(time.perf_counter() - self.started)}, '
            f'remaining {self.remaining(number)}'
        )

    def finish(self, number: int, seconds: float) -> None:
        """Note how long a run took."""
        self.seconds.setdefault(self.jobs[number].stage, []).append(seconds)

    def remaining(self, number: int) -> str:
        """What the runs from ``number`` on may take, by the mean of the finished ones."""
        left = [job.stage for job in self.jobs[number:]]
        if any(stage not in self.seconds for stage in left):
            return 'not known yet'
        mean = {stage: sum(times) / len(times) for stage, times in self.seconds.items()}
        return f'about {_clock(sum(mean[stage] for stage in left))}'


def jobs_of(settings: AblationSettings) -> list[Job]:
    """Runs that are still to be done: seed by seed, a coarse run before what starts from it.

    Raises:
        CampaignError: if numbers are there that were measured with another variant of the name.
    """
    jobs: list[Job] = []
    for seed in settings.seeds:
        for name in settings.variants:
            if finished(settings, name, seed):
                continue
            coarse = coarse_name(name)
            if coarse is not None:
                job = Job('coarse', coarse, seed)
                if job not in jobs and not finished_coarse(settings, coarse, seed):
                    jobs.append(job)
            jobs.append(Job('fine', name, seed))
    return jobs


def finished(settings: AblationSettings, name: str, seed: int) -> dict[str, Any] | None:
    """Numbers of a variant and seed; None where there are none.

    Raises:
        CampaignError: if they were measured with another variant of the name.
    """
    wanted = VARIANTS[name].definition()
    return _numbers(settings.result(name, seed), name, 'variant', wanted)


def finished_coarse(settings: AblationSettings, name: str, seed: int) -> dict[str, Any] | None:
    """The same of a coarse run."""
    wanted = VARIANTS[name].coarse_settings
    return _numbers(settings.coarse_result(name, seed), name, 'coarse_settings', wanted)


def run_campaign(settings: AblationSettings, say: Callable[[str], None] = print) -> None:
    """Make the data, and do all runs that are not finished.

    Args:
        settings: What to measure.
        say: Gets a line of progress at a time.

    Raises:
        CampaignError: if the work folder holds numbers of other settings.
        FileExistsError: if the data folder holds something else.
    """
    coarse, fine = coarse_base(settings), fine_base(settings)
    begin_campaign(settings, coarse, fine)
    data = coarse.shapes
    try:
        generate_shapes(settings.data, dict(data.splits), data.seed, data.image_size)
    except FileExistsError as error:
        raise FileExistsError(
            f'{error}. The ablations need their own images: choose another --data'
        ) from error
    progress = Progress(jobs_of(settings), say)
    say(f'ablations: {len(progress.jobs)} runs to do')
    for number, job in enumerate(progress.jobs):
        progress.begin(number)
        started = time.perf_counter()
        _do(job, coarse, fine, settings)
        progress.finish(number, time.perf_counter() - started)
    say(f'ablations: all runs are finished; numbers: {settings.work_dir / "results"}')


def begin_campaign(settings: AblationSettings, coarse: Config, fine: Config) -> None:
    """Write down what is measured with, or see that the numbers there were measured with it.

    Raises:
        CampaignError: if they were not.
    """
    splits = dict(coarse.shapes.splits)
    now = dict(
        coarse_steps=coarse.train_cfg.max_iters,
        fine_steps=fine.train_cfg.max_iters,
        coarse_batch=coarse.train_dataloader.batch_size,
        fine_batch=fine.train_dataloader.batch_size,
        images=splits,
        data=str(settings.data),
        data_seed=coarse.shapes.seed,
        data_version=VERSION,
        processes=settings.process_count,
        sizes=_sizes(coarse, fine),
        coarse_config=digest(coarse),
        fine_config=digest(fine),
    )
    before = read_json(settings.campaign)
    if before is None:
        write_json(settings.campaign, dict(now, command=settings.command(), machine=_machine()))
        return
    other = [
        f'{key} {before.get(key)} there, {value} wanted'
        for key, value in _plain(now).items()
        if before.get(key) != value
    ]
    if other:
        raise CampaignError(
            f'{settings.work_dir} holds numbers of other settings: {"; ".join(other)}. Numbers of '
            'both cannot be compared: go on with the same options and configs, or take another '
            '--work-dir'
        )


def _do(job: Job, coarse: Config, fine: Config, settings: AblationSettings) -> None:
    if job.stage == 'coarse':
        result = coarse_run(coarse, job.name, job.seed, settings)
        own = dict(coarse_settings=VARIANTS[job.name].coarse_settings)
        write_json(settings.coarse_result(job.name, job.seed), own | result)
        remove_checkpoints(settings.coarse_dir(job.name, job.seed))
        return
    start = coarse_name(job.name)
    result = fine_run(fine, job.name, job.seed, settings, start)
    scores = dict(result.pop('scores'))
    if start is not None:
        scores |= finished_coarse(settings, start, job.seed)['scores']
    write_json(
        settings.result(job.name, job.seed),
        dict(
            name=job.name,
            variant=VARIANTS[job.name].definition(),
            coarse_stage=start,
            scores=scores,
            **result,
        ),
    )
    folder = settings.fine_dir(job.name, job.seed)
    remove_checkpoints(folder / 'train')
    remove_checkpoints(folder)


def _numbers(path: Path, name: str, key: str, wanted: Any) -> dict[str, Any] | None:
    """Numbers of a run, which must say under ``key`` that they were measured as ``wanted``."""
    found = read_json(path)
    if found is not None and found.get(key) != _plain(wanted):
        raise CampaignError(
            f'{path} was measured when the variant {name!r} was something else: '
            f'{found.get(key)}, now {wanted}. Delete it to measure it again, or take another '
            '--work-dir'
        )
    return found


def _sizes(coarse: Config, fine: Config) -> dict[str, Any]:
    """Sizes of images and of the model, for the report."""
    swin, roberta = fine.model.backbone.swin, fine.model.backbone.roberta
    found: dict[str, set[int]] = dict(FiberSquareResize=set(), train=set(), test=set())
    for step in _steps(coarse.train_dataloader):
        if step['type'] == 'FiberSquareResize':
            found['FiberSquareResize'].add(step['size'])
    for name in ('train', 'test'):
        for step in _steps(fine[f'{name}_dataloader']):
            if step['type'] == 'FiberResize':
                found[name].add(step['short'])
    return dict(
        coarse_pixels=sorted(found['FiberSquareResize']),
        fine_pixels=sorted(found['train']),
        test_pixels=sorted(found['test']),
        swin_width=swin.embed_dim,
        swin_depths=list(swin.depths),
        text_width=roberta.hidden_size,
        text_layers=roberta.num_layers,
        fused_blocks=fine.model.backbone.fusion.num_blocks,
        local_init=[cfg.get('local_init', False) for cfg in (coarse.model.swin, swin)],
    )


def _steps(value: Any) -> list[dict]:
    """All steps of pipelines below a loader's config."""
    if isinstance(value, dict):
        own = [value] if str(value.get('type', '')).endswith('Resize') else []
        return own + [step for item in value.values() for step in _steps(item)]
    if isinstance(value, (list, tuple)):
        return [step for item in value for step in _steps(item)]
    return []


def _machine() -> str:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _cpu()
    return f'{device}, Python {platform.python_version()}, torch {torch.__version__}'


def _cpu() -> str:
    info = Path('/proc/cpuinfo')
    if info.is_file():
        for line in info.read_text(errors='replace').splitlines():
            if line.startswith('model name'):
                return line.split(':', 1)[1].strip()
    return platform.processor() or platform.machine()


def _plain(value: Any) -> Any:
    """What JSON makes of a value."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
