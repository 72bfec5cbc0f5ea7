"""A model from a config and a checkpoint, and images and words to boxes.

    model = init_grounder('grounding/fiber_nano_...', 'model.pth')
    result = ground(model, 'photo.jpg', 'a red circle above two blue squares')
    result.pred_instances.label_names, result.pred_instances.bboxes

Several texts about one image share the part of the work that needs no text:

    seen = encode_image(model, 'photo.jpg')
    answers = [ground(model, seen, text) for text in ('red circle . blue ring', 'the top star')]
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.dataset import Compose
from PIL import Image
from torch import nn

from fiber_mm.config_lookup import get_config_path
from fiber_mm.datasets.transforms.image import as_seen, read_image
from fiber_mm.engine.checkpoint import load_checkpoint_file, load_weights, with_state_dict
from fiber_mm.engine.device import default_device
from fiber_mm.registry import MODELS, init_default_scope
from fiber_mm.structures import ImageTrunk

ImageInput = str | os.PathLike | np.ndarray | Image.Image
#: Keys by which a text enters a data sample.
_TEXT_KEYS = ('text', 'custom_entities', 'tokens_positive', 'caption_prompt')


@dataclass(frozen=True)
class EncodedImage:
    """An image as far as the model processes it without a text.

    Attributes:
        trunk: Before the first fused block; a batch of one.
        sample: Sizes and scale factors of the image.
    """

    trunk: ImageTrunk
    sample: DetDataSample


def init_grounder(
    config: str | os.PathLike | Config,
    checkpoint: str | os.PathLike | None,
    device: str | torch.device | None = None,
    cfg_options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build a detector and load its weights; nothing in the checkpoint is executed.

    Args:
        config: Config, path of one, or the name of one that comes with the package.
        checkpoint: Weights, ``.pth`` or ``.safetensors``; None leaves the initial ones.
        device: Where to run; by default an accelerator if there is one (not Apple's ``mps``).
        cfg_options: Settings that override the config's, such as
            ``{'model.data_preprocessor.tokenizer': 'my/tokenizer'}``.

    Returns:
        The model in evaluation mode, with its config as ``model.cfg``.

    Raises:
        FileNotFoundError: If there is no such config or checkpoint.
        CheckpointError: If the checkpoint cannot be read or does not fit the model.
    """
    cfg = _read_config(config)
    if cfg_options:
        cfg.merge_from_dict(dict(cfg_options))
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    model_cfg = copy.deepcopy(cfg.model)
    model_cfg.pop('init_cfg', None)
    model = MODELS.build(model_cfg)
    if checkpoint is not None:
        content = with_state_dict(load_checkpoint_file(checkpoint), str(checkpoint))
        load_weights(model, content, source=str(checkpoint))
        model.dataset_meta = content.get('meta', {}).get('dataset_meta', {})
    model.cfg = cfg
    return model.to(device or default_device()).eval()


def encode_image(model: nn.Module, image: ImageInput) -> EncodedImage:
    """The part of the work on an image that every text about it shares.

    Args:
        model: From :func:`init_grounder`.
        image: File, PIL image, or (H, W, 3) array in BGR order as OpenCV reads it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no image that can be read.
    """
    data = _pipeline(model)(_loaded(image))
    batch = {'inputs': [data['inputs']], 'data_samples': [data['data_samples']]}
    # The text comes later: prepare only the pixels, as mmdet's class above ours does.
    batch = DetDataPreprocessor.forward(model.data_preprocessor, batch, False)
    with torch.inference_mode():
        trunk = model.image_trunk(batch['inputs'])
    return EncodedImage(trunk, batch['data_samples'][0])


def ground(
    model: nn.Module,
    image: ImageInput | EncodedImage | Sequence[ImageInput | EncodedImage],
    text: str | Sequence[str],
    tokens_positive: Any = None,
    custom_entities: bool | None = None,
    score_thr: float | None = None,
    caption_prompt: Mapping | None = None,
) -> DetDataSample | list[DetDataSample]:
    """Find what a text names.

    Args:
        model: From :func:`init_grounder`.
        image: One image or a list of them; each as for :func:`encode_image`, or its result.
        text: A list of class names; or a string, either classes set apart by " . "
            ("red circle . blue ring") or a caption.
        tokens_positive: For a caption: the character spans [start, end) of each phrase, -1 for the
            caption as one phrase, None to find noun phrases.
        custom_entities: Whether a string lists classes; None decides by :func:`lists_classes`.
        score_thr: Boxes below are left out; None keeps those that the model's settings keep.
        caption_prompt: Per class a ``prefix``, ``name`` or ``suffix`` for its words in the prompt.

    Returns:
        One sample per image, with ``pred_instances``: ``bboxes`` (N, 4) xyxy in pixels of the
        image as it was handed in, ``scores`` (N,) falling, ``labels`` (N,) that index the classes
        or phrases, and their ``label_names``.

    Raises:
        ValueError: For an empty prompt, empty or duplicate class names, spans outside the caption
            or on no token of it.
        TypeError: For a text that is neither a string nor a list of strings, or spans that are no
            pairs of whole numbers.
    """
    if isinstance(image, Sequence) and not isinstance(image, (str, bytes)):
        settings = (tokens_positive, custom_entities, score_thr, caption_prompt)
        return [ground(model, one, text, *settings) for one in image]
    if not isinstance(text, str):
        if not isinstance(text, Iterable) or isinstance(text, Mapping):
            raise TypeError(f'text must be a string or a list of class names, got {text!r}')
        if tokens_positive is not None:
            raise ValueError(
                'tokens_positive are spans of a caption, but text is a list of class names: give '
                'one of the two'
            )
        text = tuple(text)
    if custom_entities is None:
        custom_entities = isinstance(text, str) and tokens_positive is None and lists_classes(text)
    query = DetDataSample(
        metainfo=dict(
            text=text,
            custom_entities=custom_entities,
            tokens_positive=tokens_positive,
            caption_prompt=caption_prompt,
            img_path=os.fspath(image) if isinstance(image, (str, os.PathLike)) else '',
        )
    )
    # Before the image: a faulty text costs no work.
    preprocessor = model.data_preprocessor
    prompts = preprocessor.text.pad_together(preprocessor.tokenize_sample(query))
    seen = image if isinstance(image, EncodedImage) else encode_image(model, image)
    sample = seen.sample.clone()
    sample.set_metainfo({key: query.get(key) for key in _TEXT_KEYS})
    device = seen.trunk.tokens.device
    sample.prompts = [prompt.to(device) for prompt in prompts]
    with torch.inference_mode():
        (sample,) = model.predict_by_trunk(seen.trunk, [sample])
    if score_thr is not None:
        sample.pred_instances = sample.pred_instances[sample.pred_instances.scores >= score_thr]
    return sample


def lists_classes(text: str) -> bool:
    """Whether a text is a list of classes: its parts are set apart by " . ", or it ends so.

    "red circle . blue ring" and "red circle ." are lists, "A circle. It is red." is a caption.
    """
    return ' . ' in text or text.rstrip().endswith(' .')


def _read_config(config: str | os.PathLike | Config) -> Config:
    if isinstance(config, Config):
        return copy.deepcopy(config)
    path = Path(config)
    return Config.fromfile(str(path if path.is_file() else get_config_path(os.fspath(config))))


def _pipeline(model: nn.Module) -> Compose:
    """The test pipeline of the model's config, from a loaded image on."""
    if not hasattr(model, '_inference_pipeline'):
        dataset = model.cfg.test_dataloader.dataset
        while 'pipeline' not in dataset:
            dataset = dataset.get('dataset') or dataset['datasets'][0]
        # Images come loaded, and without annotations.
        steps = [
            step
            for step in copy.deepcopy(dataset.pipeline)
            if not step['type'].rpartition('.')[2].startswith(('Load', 'FiberLoad'))
        ]
        model._inference_pipeline = Compose(steps)
    return model._inference_pipeline


def _loaded(image: ImageInput) -> dict:
    """An image as a loading transform leaves it: BGR, with its sizes."""
    path = ''
    if isinstance(image, (str, os.PathLike)):
        path = os.fspath(image)
        image = read_image(path)
    elif isinstance(image, Image.Image):
        image = np.ascontiguousarray(np.asarray(as_seen(image))[..., ::-1])
    elif not isinstance(image, np.ndarray):
        raise TypeError(
            f'an image must be a file, a PIL image or an array, got {type(image).__name__}'
        )
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(
            f'an image array must be uint8 of shape (H, W, 3), got {image.dtype} of {image.shape}; '
            'give a file or a PIL image and it is converted'
        )
    height, width = image.shape[:2]
    return dict(
        img=image,
        img_path=path,
        img_shape=(height, width),
        ori_shape=(height, width),
        height=height,
        width=width,
        instances=[],
    )
