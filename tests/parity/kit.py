"""The parity kit's files: goldens, manifests, inputs, and models with synthetic weights."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from mmengine.config import Config
from mmengine.runner import load_checkpoint
from torch import Tensor, nn

from fiber_mm.convert import Report
from fiber_mm.convert.files import convert_file
from fiber_mm.models.multimodal.queue import NegativeQueue
from fiber_mm.registry import MODELS
from fiber_mm.structures import TextBatch

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get('FIBER_PARITY') or Path(__file__).parent / 'data')

# Kinds of goldens without a case; each is reported by name.
NOT_COVERED = {
    'coarse_vqa': 'the VQA model is not there yet',
    'coarse_nlvr2': 'the NLVR2 model is not there yet',
    'coarse_caption': 'the captioner is not there yet',
}


@dataclass(frozen=True)
class Golden:
    """One ``golden_*.npz``.

    Attributes:
        path: the file.
    """

    path: Path

    @property
    def name(self) -> str:
        """File name without prefix and suffix, as `fine_head_single`."""
        return self.path.stem.removeprefix('golden_')

    @property
    def kind(self) -> str:
        """The first two words of the name, as `fine_head`."""
        return '_'.join([*self.name.split('_'), ''][:2])

    @cached_property
    def arrays(self) -> Mapping[str, np.ndarray]:
        """All arrays of the file."""
        with np.load(self.path) as file:
            return {key: file[key] for key in file.files}

    @cached_property
    def meta(self) -> dict:
        """The JSON string `meta` of the coarse goldens."""
        return json.loads(str(self.arrays['meta']))

    @property
    def manifest(self) -> Path:
        """The manifest of the checkpoint that this golden was computed from."""
        if self.kind.startswith('coarse'):
            name = f'coarse_{self.meta["manifest"]}'
        else:
            name = 'fine_refexp' if 'refexp' in self.name.split('_') else 'fine'
        return self.path.parent / f'manifest_{name}.json'

    def sample(self, name: str) -> tuple[np.ndarray, tuple[slice, ...], float, float]:
        """A subset of a large tensor: values, the slices that take it, mean, std of the whole."""
        arrays = self.arrays
        if f'{name}.sample' in arrays:
            value, stride, end = arrays[f'{name}.sample'], arrays[f'{name}.stride'], '.'
        else:
            value, stride, end = arrays[name], arrays[f'{name}__strides'], '__'
        slices = tuple(slice(None, None, int(s)) for s in stride)
        return value, slices, float(arrays[f'{name}{end}mean']), float(arrays[f'{name}{end}std'])


def goldens() -> list[Golden]:
    """Every golden of the folder."""
    return [Golden(path) for path in sorted(FOLDER.glob('golden_*.npz'))]


def cheapest_order(golden: Golden, bf16: bool) -> tuple:
    """Sort key that brings together what shares a model, then what shares a forward pass."""
    stage, what = golden.kind.split('_')
    alone = golden.kind if what in ('refexp', 'loss') else ''
    return stage, alone, golden.name.split('_')[2:], bf16, what


def synth():
    """The kit's ``synth.py``, from the folder of the goldens."""
    spec = importlib.util.spec_from_file_location('parity_synth', FOLDER / 'synth.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass
class Loaded:
    """A model with the weights of one manifest.

    Attributes:
        manifest: the manifest.
        model: in eval mode.
        report: what the converter did.
    """

    manifest: Path
    model: nn.Module
    report: Report


def model_config(family: str, window: int) -> dict:
    """The shipped config of a family's model, without the tokenizer, which no case needs."""
    if family.startswith('fine'):
        cfg = Config.fromfile(ROOT / 'configs/_base_/models/fiber_swin-b_grounding.py').model
        cfg.backbone.fusion.norm_i2t_query = family == 'fine_refexp'
        cfg.backbone.swin.window_size = window
    else:
        name = 'pretrain' if family == 'coarse_pretrain' else 'coarse'
        cfg = Config.fromfile(ROOT / f'configs/_base_/models/fiber_swin-b_{name}.py').model
        cfg.swin.window_size = window
    cfg.data_preprocessor = None
    return cfg


def write_synthetic(manifest: Path, path: Path) -> None:
    """Write the synthetic checkpoint of a manifest as the original would."""
    content = json.loads(manifest.read_text())
    state = synth().synth_state_dict(content['tensors'])
    torch.save({content['container']: state}, path)


@contextlib.contextmanager
def no_random_weights() -> Iterator[None]:
    """Skips random initialisation, which takes seconds and is overwritten anyway."""
    with contextlib.ExitStack() as stack:
        for name in ('trunc_normal_', 'normal_', 'uniform_', 'kaiming_uniform_'):
            stack.enter_context(mock.patch.object(nn.init, name, lambda tensor, *_, **__: tensor))
        yield


class Models:
    """Converts and builds on demand; keeps the last model only (1 GB each).

    Args:
        folder: where checkpoints are written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loaded: Loaded | None = None
        self.cache: tuple | None = None
        self.seconds = 0.0

    def get(self, manifest: Path) -> Loaded:
        """The model of a manifest: synthetic checkpoint, shipped converter, shipped config."""
        if self.loaded is None or self.loaded.manifest != manifest:
            start = time.perf_counter()
            self.loaded = self.cache = None
            source, target = self.folder / 'original.pth', self.folder / 'converted.pth'
            write_synthetic(manifest, source)
            result = convert_file(source, target)
            source.unlink()
            meta, report = result.meta, result.report
            del result
            with no_random_weights():
                model = MODELS.build(model_config(meta['family'], meta['arch']['window']))
            load_checkpoint(model, str(target), strict=True)
            target.unlink()
            self.loaded = Loaded(manifest, model.eval(), report)
            self.seconds += time.perf_counter() - start
        return self.loaded

    def outputs(self, key: tuple, compute):
        """What `compute()` returns for `key`, kept until another key is asked for."""
        if self.cache is None or self.cache[0] != key:
            self.cache = None
            self.cache = (key, compute())
        return self.cache[1]


def as_retrieval(loaded: Loaded, rank_by: str) -> nn.Module:
    """The shipped retrieval model with the weights, which it shares, of a pre-training model."""
    cfg = Config.fromfile(ROOT / 'configs/_base_/models/fiber_swin-b_retrieval.py').model
    cfg.update(losses=('itc', 'itm'), rank_by=rank_by, data_preprocessor=None)
    cfg.swin.window_size = loaded.model.encoder.cfg.swin.window_size
    with no_random_weights():
        model = MODELS.build(cfg)
    weights = loaded.model.state_dict()
    model.load_state_dict({key: weights[key] for key in model.state_dict()}, assign=True)
    return model.eval()


def fine_batch(arrays: Mapping[str, np.ndarray]) -> tuple[Tensor, Tensor, Tensor]:
    """Images (B, 3, H, W), ids and mask (B, T) of a fine golden.

    Raises:
        AssertionError: the images are not those that the golden was computed from.
    """
    random = np.random.RandomState(int(arrays['image_seed']))
    sizes = arrays['sizes']
    height, width = (-(-int(sizes[:, i].max()) // 32) * 32 for i in (0, 1))
    images = torch.zeros(len(sizes), 3, height, width)
    for image, (h, w) in zip(images, sizes):
        image[:, :h, :w] = torch.from_numpy(random.standard_normal((3, h, w)).astype(np.float32))
    np.testing.assert_array_equal(images[:, :, :4, :4].numpy(), arrays['image_corners'])
    mask = torch.from_numpy(arrays['attention_mask']).bool()
    return images, torch.from_numpy(arrays['input_ids']), mask


def coarse_image(golden: Golden, name: str = 'image') -> Tensor:
    """An image batch of a coarse golden, checked against its probe."""
    spec = golden.meta['images'][name]
    value = np.random.RandomState(spec['seed']).standard_normal(spec['shape'])
    value = value.astype(np.float32)
    np.testing.assert_array_equal(value[:, :, 0, :4], golden.arrays[f'{name}__probe'])
    return torch.from_numpy(value)


def coarse_texts(golden: Golden) -> TextBatch:
    """The texts of a golden of pre-training, with their hidden words."""
    arrays = {
        name: torch.from_numpy(golden.arrays[name])
        for name in ('text_ids', 'text_masks', 'text_ids_mlm', 'text_labels_mlm')
    }
    labels = arrays['text_labels_mlm'].flatten()
    positions = (labels != -100).nonzero()[:, 0]
    return TextBatch(
        arrays['text_ids'],
        arrays['text_masks'].bool(),
        arrays['text_ids_mlm'],
        positions,
        labels[positions],
    )


class GoldenQueue(NegativeQueue):
    """The queue of a golden: what pre-training found before its step.

    Its images are no 8-bit ones, so they are kept as they are.

    Args:
        golden: of pre-training.
    """

    def __init__(self, golden: Golden) -> None:
        queue = golden.meta['queue']
        super().__init__(queue['size'])
        arrays, seeds = golden.arrays, queue['seeds']
        for name in ('image', 'text'):
            random = np.random.RandomState(seeds[f'{name}_queue'])
            probe = arrays[f'{name}_queue__probe']
            value = random.standard_normal((768, queue['size'])).astype(np.float32)
            end = queue['normalised_columns']
            value[:, :end] /= np.linalg.norm(value[:, :end], axis=0)
            np.testing.assert_allclose(value[:4, :8], probe, rtol=1e-6)
            self._stored[f'{name}_features'] = torch.from_numpy(value).t().contiguous()
        random = np.random.RandomState(seeds['image_input_queue'])
        ids = torch.from_numpy(arrays['queue_text_ids'])
        images = random.standard_normal((len(ids), 3, *[golden.meta['image_size']] * 2))
        self._stored['pixels'] = torch.from_numpy(images.astype(np.float32))
        self._stored['input_ids'] = ids
        self._stored['attention_mask'] = torch.from_numpy(arrays['queue_text_masks']).bool()
        self.pointer, self.total = queue['ptr'], queue['total']

    def fill(self) -> None:
        """Make a full queue of it: every column of unit length, none of them noise."""
        for name in ('image_features', 'text_features'):
            self._stored[name] = torch.nn.functional.normalize(self._stored[name], dim=1)
        self.total = self.size


def our_parameter(loaded: Loaded, key: str) -> nn.Parameter:
    """Our parameter for an original key."""
    return loaded.model.get_parameter(loaded.report.used[key])


def original_groups(loaded: Loaded) -> dict[str, list[nn.Parameter]]:
    """Our parameters in the groups of `grad_norm.names` of the fine goldens."""
    rules = [
        (r'fusion_backbone\.backbone\.body\.(layers\.\d+|patch_embed)\.', r'visual.\1'),
        (r'fusion_backbone\.backbone\.body\.norm\d', 'visual.norms'),
        (r'fusion_backbone\.backbone\.fpn\.', 'fpn'),
        (r'fusion_backbone\.language_backbone\.body\.model\.embeddings\.', 'text.embeddings'),
        (r'fusion_backbone\.language_backbone\.body\.model\.encoder\.(layer\.\d+)\.', r'text.\1'),
        (r'rpn\.head\.dyhead_tower\.(\d+)\.', r'dyconv.\1'),
        (r'rpn\.head\.(\w+)', r'head.\1'),
    ]
    groups: dict[str, list[nn.Parameter]] = {}
    for key, ours in loaded.report.used.items():
        name = next(m.expand(to) for pattern, to in rules if (m := re.match(pattern, key)))
        groups.setdefault(name, []).append(loaded.model.get_parameter(ours))
    return groups
