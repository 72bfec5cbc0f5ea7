"""Features of a retrieval evaluation in a file, so that one model re-ranks what another found."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from torch import Tensor

from .block_cache import digest
from .checkpoint import CheckpointError, load_checkpoint_file, write_atomic
from .gallery import Gallery

_KEYS = {'image_features', 'text_features', 'gallery'}


def gallery_digest(gallery: Gallery) -> str:
    """What two evaluations must agree in to be about the same images and captions."""
    return digest(gallery.image_ids, gallery.text_ids, gallery.texts, gallery.image_of_text)


def save_features(path: str | Path, images: Tensor, texts: Tensor, gallery: Gallery) -> None:
    """Write the features of all images and captions.

    Args:
        path: The file; its folder is made if missing.
        images: (I, D), unit length.
        texts: (T, D), unit length.
        gallery: What they belong to.
    Raises:
        CheckpointError: if the disk is full; what was there is untouched.
    """
    content = dict(
        image_features=images.float().cpu(),
        text_features=texts.float().cpu(),
        gallery=gallery_digest(gallery),
    )
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomic(path, buffer.getvalue())


def load_features(path: str | Path, gallery: Gallery) -> tuple[Tensor, Tensor]:
    """Undoes :func:`save_features`; nothing that the file may contain is run.

    Raises:
        FileNotFoundError: if there is no such file.
        CheckpointError: if it is broken, no file of features, or of other images and captions.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f'there are no features {path}: test the model of the dual encoder on the same data '
            f'with test_cfg.features_out={path} first'
        )
    content = load_checkpoint_file(path)
    if set(content) != _KEYS:
        raise CheckpointError(
            f'{path} is no file of features (test_cfg.features_out): it has {sorted(content)[:5]}, '
            f'wanted {sorted(_KEYS)}'
        )
    images, texts = content['image_features'], content['text_features']
    if content['gallery'] != gallery_digest(gallery):
        raise CheckpointError(
            f'{path} has the features of {len(images)} images and {len(texts)} captions, the '
            f'evaluation is of {len(gallery.image_ids)} and {len(gallery.texts)} others, or in '
            'another order: write them anew, with the same data set and split'
        )
    return images, texts
