"""The demo on images and words that a user gives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import MMLogger
from PIL import Image
from torch import nn

from fiber_mm.apis import encode_image, ground, init_grounder
from fiber_mm.datasets.transforms import read_image
from fiber_mm.engine.checkpoint import write_atomic

from .gallery import draw_sample
from .settings import DemoSettings


def load_model(
    config: str | None, checkpoint: str | None, settings: DemoSettings, device: str | None = None
) -> nn.Module:
    """The model that is asked for, or the one that the demo trained.

    Args:
        config: Path or name of a config; None for the demo's.
        checkpoint: Its weights; None for the demo's.
        settings: Say where the demo's model is.
        device: Where to run; None for an accelerator if there is one.

    Raises:
        FileNotFoundError: If the demo has not been run and no other weights are given.
    """
    if (config is None) != (checkpoint is None):
        missing, given = ('--config', '--checkpoint') if config is None else (
            '--checkpoint', '--config')  # fmt: skip
        raise ValueError(f'{given} is given without {missing}: give both, or none')
    if config is not None:
        return init_grounder(config, checkpoint, device)
    for path in (settings.model_config, settings.checkpoint):
        if not path.is_file():
            raise FileNotFoundError(
                f'there is no {path}: run `make demo` first, which trains a model in about ten '
                'minutes, or give --config and --checkpoint'
            )
    # The folder may have been moved since.
    options = {'model.data_preprocessor.tokenizer': str(settings.tokenizer)}
    return init_grounder(settings.model_config, settings.checkpoint, device, options)


def ground_files(
    model: nn.Module,
    images: Sequence[str],
    texts: Sequence[str],
    out: Path,
    tokens_positive: Any = None,
    custom_entities: bool | None = None,
    score_thr: float = 0.3,
) -> list[dict[str, Any]]:
    """Find every text in every image; write pictures and ``results.json``.

    Args:
        model: From :func:`load_model`.
        images: Files of any kind that Pillow reads.
        texts: Class lists or captions; see :func:`fiber_mm.apis.ground`.
        out: Folder for the results; made if it is not there.
        tokens_positive: Spans of each phrase of the captions.
        custom_entities: Whether the texts list classes; None decides by their form.
        score_thr: Least score of a box.

    Returns:
        The content of ``results.json``: for each image and text ``image``, ``text``, ``picture``
        and ``detections`` (``name``, ``label``, ``score``, ``box`` xyxy in pixels).
    """
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, path in enumerate(images):
        image = read_image(path)
        seen = encode_image(model, image)
        for index, text in enumerate(texts):
            sample = ground(model, seen, text, tokens_positive, custom_entities, score_thr)
            stem = f'{number:02d}_{Path(path).stem}' if len(images) > 1 else Path(path).stem
            picture = out / f'{stem}{f"_{index}" if len(texts) > 1 else ""}.png'
            rgb = np.ascontiguousarray(image[..., ::-1])
            Image.fromarray(draw_sample(rgb, sample)).save(picture)
            found = sample.pred_instances
            rows.append(
                dict(
                    image=str(path),
                    text=text,
                    picture=str(picture),
                    detections=[
                        dict(
                            name=name,
                            label=label,
                            score=round(score, 4),
                            box=[round(v, 2) for v in box],
                        )
                        for name, label, score, box in zip(
                            found.label_names,
                            found.labels.tolist(),
                            found.scores.tolist(),
                            found.bboxes.tolist(),
                        )
                    ],
                )
            )
    write_atomic(out / 'results.json', (json.dumps(rows, indent=1) + '\n').encode())
    MMLogger.get_current_instance().info(f'demo: {len(rows)} results in {out}')
    return rows
