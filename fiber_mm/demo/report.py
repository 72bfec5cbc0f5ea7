"""The demo's report: one page with numbers, curves and pictures."""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from fiber_mm.apis import init_grounder
from fiber_mm.engine.checkpoint import write_atomic
from fiber_mm.report import (
    RunCurves,
    code_block,
    figure,
    gallery,
    page,
    paragraph,
    plot_curves,
    read_curves,
    section,
    table,
    tiles,
)
from fiber_mm.version import __version__

from . import annotations
from . import gallery as pictures
from .coarse_report import coarse_sections
from .settings import TARGETS, TITLES, DemoSettings, StepRecord

SPLIT = 'val'


def write_report(settings: DemoSettings, record: StepRecord, started: float) -> dict[str, Any]:
    """Draw, and write ``metrics.json`` and ``report.html``.

    Args:
        settings: Of the demo.
        record: Of the steps before.
        started: ``time.perf_counter()`` when this step began.

    Returns:
        The content of ``metrics.json``.
    """
    cfg = Config.fromfile(str(settings.model_config))
    model = init_grounder(cfg, settings.checkpoint)
    root = Path(cfg.data_root)
    drawn = _pictures(model, root)
    train = record.steps['train']['result']
    metrics = dict(record.steps['evaluate']['result'])
    metrics['targets'] = TARGETS
    metrics['reached'] = {
        name: metrics[name] is not None and metrics[name] >= goal for name, goal in TARGETS.items()
    }
    metrics['data'] = record.steps['data']['result']
    metrics['training'] = train
    if record.done('coarse'):
        coarse = dict(training=record.steps['coarse']['result'])
        metrics['coarse'] = coarse | record.steps['evaluate_coarse']['result']
        drawn = coarse_sections(metrics['coarse'], settings) | drawn
    metrics['config'] = settings.config
    metrics['versions'] = versions()
    metrics['seconds'] = {
        **record.seconds,
        'report': round(time.perf_counter() - started, 1),
    }
    metrics['seconds']['total'] = round(sum(metrics['seconds'].values()), 1)
    curves = read_curves(settings.train_dir)
    html = compose(metrics, curves, drawn, settings)
    write_atomic(settings.metrics, (json.dumps(metrics, indent=1) + '\n').encode())
    write_atomic(settings.report, html.encode())
    return metrics


def compose(
    metrics: dict[str, Any], curves: RunCurves, drawn: dict[str, str], settings: DemoSettings
) -> str:
    """The page from its parts."""
    training, data = metrics['training'], metrics['data']
    counts = data['splits']
    reached = sum(metrics['reached'].values())
    intro = (
        'A small FIBER detector, trained from random weights on generated images and captions: '
        'its image and text encoders exchange information in their last blocks. Its task is to '
        'find whatever is named, also combinations of colour and shape that no training image or '
        'text held.'
    )
    head = (
        '<h1>FIBER on Shapes: open-vocabulary detection and phrase grounding</h1>\n'
        + paragraph(intro)
        + _coarse_intro(metrics)
        + paragraph(
            f'{counts["train"]} training and {counts[SPLIT]} validation images, '
            f'{training["iterations"]} steps of {training["batch_size"]} images, '
            f'{training["parameters"] / 1e6:.1f} million parameters; everything took '
            f'{_minutes(metrics["seconds"]["total"])} on {_processor()}. '
            f'{reached} of {len(TARGETS)} targets are reached.',
            soft=True,
        )
        + tiles(
            [
                (
                    TITLES[name],
                    _percent(metrics[name]),
                    f'target {100 * goal:.0f} %',
                    metrics['reached'][name],
                )
                for name, goal in TARGETS.items()
            ]
        )
    )
    return page(
        'FIBER on Shapes',
        '\n'.join(
            [
                head,
                _results(metrics),
                _curves(curves),
                *drawn.values(),
                _own_images(settings),
                _facts(metrics),
            ]
        ),
    )


def _coarse_intro(metrics: dict[str, Any]) -> str:
    if 'coarse' not in metrics:
        return ''
    training = metrics['coarse']['training']
    return paragraph(
        f'Its encoders learnt from images and captions alone first, in {training["iterations"]} '
        f'steps of {training["batch_size"]} pairs: what they find and where they look without '
        'having seen a box is shown below, too.'
    )


def _results(metrics: dict[str, Any]) -> str:
    rows = []
    for name, goal in TARGETS.items():
        verdict = '✓ reached' if metrics['reached'][name] else '✗ not reached'
        rows.append([TITLES[name], _percent(metrics[name]), f'≥ {_percent(goal)}', verdict])
    for name, title in (
        ('ap50_all', 'AP50, all 48 classes'),
        ('ap_seen', 'AP (IoU 0.50 to 0.95), seen classes'),
        ('ap_unseen', 'AP (IoU 0.50 to 0.95), held-out classes'),
        ('phrase_recall_at_5', 'Phrase recall@5'),
    ):
        if name in metrics:
            rows.append([title, _percent(metrics[name]), '', ''])
    return section(
        'Results',
        table(['On validation images', 'Score', 'Target', ''], rows),
        paragraph(
            'Detection: all 48 class names in one prompt; 40 were in training images and texts, '
            '8 colour-shape combinations were not. Referring expressions: the best box must have '
            'GIoU ≥ 0.5 with the one that is meant. Phrases of captions, of each image the first '
            'one, which lists up to four things: the best box must have IoU ≥ 0.5 with one of the '
            'phrase (Flickr30k, any-box).',
            soft=True,
        ),
    )


def _curves(curves: RunCurves) -> str:
    losses = {
        title: curves.train[name]
        for name, title in (
            ('loss', 'sum'),
            ('loss_cls', 'words'),
            ('loss_bbox', 'boxes'),
            ('loss_centerness', 'centerness'),
        )
        if name in curves.train
    }
    scores = {
        name.rpartition('/')[2].replace('bbox_mAP', 'AP').replace('AP_50', 'AP50'): points
        for name, points in curves.scores.items()
        if name.endswith(('bbox_mAP', 'bbox_mAP_50'))
    }
    panels = [('Loss', losses), ('AP on validation images, all classes', scores)]
    figures = [figure(plot_curves(name, lines), '', name) for name, lines in panels if lines]
    return section('Training', gallery(figures))


def _pictures(model: nn.Module, root: Path) -> dict[str, str]:
    """The galleries, drawn on validation images."""
    seen, held_out = annotations.class_names(root)
    classes = [*seen, *held_out]
    objects = annotations.detection_images(root, SPLIT)
    with_held_out = [
        item for item in objects[4:] if sum(name in held_out for name in item.names) >= 2
    ]
    captions = annotations.caption_images(root, SPLIT)
    expressions = annotations.expression_images(root, SPLIT)
    # Of each image the caption with most phrases.
    of_image: dict[Path, annotations.LabelledImage] = {}
    for item in captions:
        if item.path not in of_image or len(item.spans) > len(of_image[item.path].spans):
            of_image[item.path] = item
    first, wrong, looked_at = pictures.expression_figures(model, expressions)
    legend = 'Left, dashed: ground truth. Right: what the model finds. '
    return {
        'detection': section(
            'Detection with all 48 classes',
            paragraph(
                f'{legend}One prompt names all classes; boxes above {pictures.SHOWN_SCORE} are '
                'drawn. A star marks a combination that training never showed, ✗ a wrong box. '
                'The first images of the validation split.',
                soft=True,
            ),
            gallery(
                pictures.detection_figures(model, objects[:4], classes, marked=held_out), 'full'
            ),
        ),
        'held_out': section(
            'Combinations that training never showed',
            paragraph(
                f'{legend}The same prompt; only the boxes of the eight held-out classes are drawn: '
                f'{", ".join(held_out)}.',
                soft=True,
            ),
            gallery(
                pictures.detection_figures(
                    model, with_held_out[:4], classes, only=held_out, progress='held-out classes'
                ),
                'full',
            ),
        ),
        'phrases': section(
            'Phrases of captions',
            paragraph(
                f'{legend}The best box of each phrase, in its colour; ✗ marks a wrong one. The '
                'first images; of each the caption with most phrases.',
                soft=True,
            ),
            gallery(pictures.phrase_figures(model, list(of_image.values())[:6])),
        ),
        'expressions': section(
            'Referring expressions',
            paragraph(
                'White, dashed: the object that is meant. Green: the best box, right; orange: '
                'wrong. The first ones of the split, whatever the result:',
                soft=True,
            ),
            gallery(first, 'small'),
            paragraph(
                f'Failures among the first {looked_at} expressions:'
                if wrong
                else f'No failure among the first {looked_at} expressions.',
                soft=True,
            ),
            gallery(wrong, 'small'),
        ),
        'free': section(
            'Any words',
            paragraph(
                'A free choice of classes, and a sentence whose noun phrases are found by rules.',
                soft=True,
            ),
            gallery(
                pictures.free_text_figures(
                    model,
                    [
                        (str(objects[1].path), 'circle . star . red thing'),
                        (str(captions[0].path), captions[0].text),
                    ],
                ),
                'small',
            ),
        ),
    }


def _own_images(settings: DemoSettings) -> str:
    return section(
        'Your own images and words',
        code_block(
            'python tools/demo.py --image photo.jpg --text "red circle . blue square"\n'
            'python tools/demo.py --image photo.jpg --text "a small star above two rings"'
        ),
        paragraph('The same from Python:'),
        code_block(
            'from fiber_mm.apis import ground, init_grounder\n\n'
            f"model = init_grounder('{settings.model_config}', '{settings.checkpoint}')\n"
            "result = ground(model, 'photo.jpg', 'a small star above two rings').pred_instances\n"
            'for name, score, box in zip(result.label_names, result.scores, result.bboxes):\n'
            '    print(name, float(score), box.tolist())'
        ),
        paragraph(
            'This model knows the words of Shapes only. For photographs use weights of FIBER-Base.',
            soft=True,
        ),
    )


def _facts(metrics: dict[str, Any]) -> str:
    training = metrics['training']
    per_step = training['seconds_per_step']
    speed = '' if per_step is None else f' ({per_step:.3f} s a step with validation)'
    steps = {
        'data': 'Data',
        'coarse': 'Training on captions',
        'evaluate_coarse': 'Evaluation of that',
        'train': 'Training',
        'evaluate': 'Evaluation',
        'report': 'Pictures',
    }
    rows = [
        [steps.get(name, name), f'{seconds:.1f} s{speed if name == "train" else ""}']
        for name, seconds in metrics['seconds'].items()
        if name != 'total'
    ]
    rows += [
        ['Seeds', f'{training["seed"]} (training), {metrics["data"]["seed"]} (data)'],
        ['Config', metrics['config']],
        ['Machine', f'{_processor()}, {torch.get_num_threads()} threads'],
        ['Versions', ', '.join(f'{k} {v}' for k, v in metrics['versions'].items())],
    ]
    return section(
        'Run',
        table(['', ''], rows),
        paragraph('All numbers are in metrics.json beside this page.', soft=True),
    )


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    import mmdet
    import mmengine
    import transformers

    return {
        'fiber_mm': __version__,
        'Python': platform.python_version(),
        'torch': torch.__version__,
        'mmengine': mmengine.__version__,
        'mmdet': mmdet.__version__,
        'transformers': transformers.__version__,
    }


def _processor() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    return f'{cores} CPU cores'


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f'{minutes} min {rest:02d} s'


def _percent(value: float | None) -> str:
    return 'undefined' if value is None else f'{100 * value:.1f} %'


__all__ = ['compose', 'versions', 'write_report']
