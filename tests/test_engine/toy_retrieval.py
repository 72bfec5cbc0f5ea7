"""A retrieval evaluation that takes a second: noise images, random captions, a small model."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from PIL import Image
from test_models.test_multimodal.toy import ENCODER

import fiber_mm  # noqa: F401  (registers all classes)
from fiber_mm.engine import retrieval
from fiber_mm.registry import RUNNERS

IMAGES, VOCABULARY = 13, 330
WORDS = ('cat', 'dog', 'red', 'green', 'blue', 'car', 'fire', 'truck', 'circle', 'small')


def write_data(folder: Path, images: int = IMAGES) -> list[dict]:
    """Noise images with one to three captions each; two captions of different images are equal."""
    random = np.random.RandomState(0)
    rows = []
    for i in range(images):
        pixels = random.randint(0, 255, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).resize((64, 64)).save(folder / f'{i}.png')
        captions = [' '.join(random.choice(WORDS, 4)) for _ in range(1 + i % 3)]
        if i in (2, 5):
            captions[0] = 'a red circle'
        sentences = [dict(raw=c, sentid=10 * i + k) for k, c in enumerate(captions)]
        rows.append(dict(filename=f'{i}.png', imgid=i, split='test', sentences=sentences))
    write_rows(folder, rows)
    return rows


def write_rows(folder: Path, rows: list[dict]) -> None:
    """Karpathy's file of these images."""
    (folder / 'dataset.json').write_text(json.dumps(dict(images=rows)))


def config(folder: Path, tokenizer: str, work_dir: Path, **loop) -> Config:
    """A test of all protocols; blocks of 4 images and 5 captions."""
    model = dict(
        type='FiberRetrieval',
        losses=('itc', 'itm'),
        data_preprocessor=dict(
            type='FiberImageTextPreprocessor', tokenizer=tokenizer, max_tokens=12,
            mean=[120.0] * 3, std=[60.0] * 3,
        ),
        **ENCODER,
    )  # fmt: skip
    model['roberta'] = dict(ENCODER['roberta'], vocab_size=VOCABULARY)
    settings = dict(
        protocols=('itc', 'itm', 'itm_rerank'), rerank_topk=6, text_batch_size=5, pair_batch_size=7
    )
    return Config(
        dict(
            default_scope='mmpretrain',
            custom_imports=dict(imports=['fiber_mm']),
            runner_type='FiberRunner',
            work_dir=str(work_dir),
            model=model,
            test_dataloader=dict(
                batch_size=4,
                num_workers=0,
                sampler=dict(type='DefaultSampler', shuffle=False),
                dataset=dict(
                    type='FiberKarpathyDataset',
                    data_root=str(folder),
                    ann_file='dataset.json',
                    data_prefix=dict(img_path=''),
                    split='test',
                    per='image',
                    test_mode=True,
                    pipeline=[
                        dict(type='FiberLoadImage'),
                        dict(type='FiberSquareResize', size=64),
                        dict(type='FiberPackImageText'),
                    ],
                ),
            ),
            test_cfg=dict(type='FiberRetrievalTestLoop', **(settings | loop)),
            test_evaluator=dict(type='FiberRetrievalRecall', topk=(1, 2, 5)),
            randomness=dict(seed=0),
        )
    )


def build(cfg: Config, launcher: str = 'none'):
    """A runner whose model is the same each time."""
    cfg = cfg.copy()
    cfg.launcher = launcher
    torch.manual_seed(5)
    return RUNNERS.build(cfg)


def evaluate(cfg: Config, launcher: str = 'none') -> dict[str, float]:
    """The scores."""
    return build(cfg, launcher).test()


def evaluate_slowly(cfg_file: str) -> None:
    """The test in a process of its own, slow enough to be killed between blocks."""
    put = retrieval.BlockCache.put

    def slow_put(self, *args, **kwargs) -> None:
        put(self, *args, **kwargs)
        time.sleep(0.2)

    retrieval.BlockCache.put = slow_put
    evaluate(Config.fromfile(cfg_file))


def in_two(cfg_file: str) -> dict[str, float]:
    """One of several processes."""
    os.environ['CUDA_VISIBLE_DEVICES'] = ''
    return evaluate(Config.fromfile(cfg_file), 'pytorch')
