"""A small dual encoder with random weights, and images for it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from PIL import Image
from test_models.test_multimodal.toy import ENCODER
from torch import nn

from fiber_mm.index import ImageIndex, embed
from fiber_mm.registry import MODELS

SIZE = 32
VOCABULARY = 330


def build_model(tokenizer: str, seed: int = 0, **settings: Any) -> nn.Module:
    """A :class:`FiberMultimodal` whose features differ from image to image."""
    torch.manual_seed(seed)
    cfg = Config(
        dict(
            model=dict(
                type='FiberMultimodal',
                **{
                    **ENCODER,
                    'roberta': dict(ENCODER['roberta'], vocab_size=VOCABULARY),
                    'data_preprocessor': dict(
                        type='FiberImageTextPreprocessor',
                        tokenizer=tokenizer,
                        max_tokens=16,
                        mean=[100.0, 110.0, 120.0],
                        std=[50.0, 55.0, 60.0],
                        to_rgb=False,
                    ),
                    **settings,
                },
            ),
            test_dataloader=dict(
                dataset=dict(pipeline=[dict(type='FiberSquareResize', size=SIZE)])
            ),
        )
    )
    model = MODELS.build(cfg.model).eval()
    model.cfg = cfg
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if 'cross_modal' in name or 'itm_score' in name:
                weight.normal_(std=0.5)
    return model


def draw_images(folder: Path, numbers: Iterable[int]) -> None:
    """Images of two kinds and several sizes, every third one in a folder of its own."""
    for number in numbers:
        random = np.random.default_rng(number)
        small = random.integers(0, 255, (4, 4, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize((40 + number, 50), Image.Resampling.NEAREST)
        path = (
            folder
            / ('sub' if number % 3 == 0 else '')
            / f'{number:02d}.{("png", "bmp")[number % 2]}'
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)


def build(index: Path, photos: Path, model: nn.Module, **kwargs: Any) -> ImageIndex:
    """Build an index in this process, quietly."""
    settings = dict(batch_size=4, workers=0, progress=False)
    return ImageIndex.build(index, photos, model, **{**settings, **kwargs})


def content(index: Path) -> dict[str, bytes]:
    """What an index consists of: its features and its list of images, byte by byte."""
    return {
        file.name.partition('-')[0]: file.read_bytes()
        for pattern in ('features-*', 'images-*')
        for file in index.glob(pattern)
    }


def build_slowly(index: str, photos: str, tokenizer: str, delay: float) -> None:
    """Build in a process of its own, a piece after every batch, to be killed."""
    features = embed.Embedder.image_features

    def slow(self, images):
        time.sleep(delay)
        return features(self, images)

    embed.Embedder.image_features = slow
    build(Path(index), Path(photos), build_model(tokenizer), save_every=0.0)


def touch(path: Path) -> None:
    """Another time of change, whatever the file system's clock resolves."""
    stat = os.stat(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))
