"""Images and captions of a retrieval evaluation, read from annotations alone."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset


@dataclass(frozen=True)
class Gallery:
    """Images and captions of an evaluation.

    Attributes:
        image_ids: of the I images.
        text_ids: of the T captions.
        texts: the captions, image by image.
        image_of_text: (T,) int64, the image that each caption belongs to.
        paths: of the image files, as far as the data set names them; of an image inside of a
            larger file with the checksum of its bytes.
    """

    image_ids: list[Any]
    text_ids: list[Any]
    texts: list[str]
    image_of_text: Tensor
    paths: list[str]

    @classmethod
    def of_dataset(cls, dataset: Dataset, least: int = 1) -> Gallery:
        """Read annotations; no image is loaded.

        Args:
            dataset: one sample is an image with all its captions: ``get_data_info`` gives
                ``image_id``, ``text`` (a caption or a list of them), ``img_path`` or
                ``img_bytes``, and ``text_id`` where captions have ids.
            least: fewest images, and fewest captions.
        Raises:
            KeyError: if the annotation of an image lacks something.
            ValueError: for an image without caption, an empty caption, captions without image,
                doubled ids, and fewer images or captions than ``least``.
        """
        image_ids, text_ids, texts, owners, paths = [], [], [], [], []
        for index in range(len(dataset)):
            info = dataset.get_data_info(index)
            absent = [key for key in ('image_id', 'text') if key not in info]
            if absent:
                raise KeyError(
                    f'sample {index} of the evaluation has no {absent}, only {sorted(info)}: a '
                    'data set of captioned images is wanted, such as FiberKarpathyDataset with '
                    "per='image'"
                )
            name = f'image {info["image_id"]!r} (sample {index})'
            captions = info['text']
            captions = [captions] if isinstance(captions, str) else list(captions)
            if not captions:
                raise ValueError(f'{name} has no caption: leave it out of the evaluation')
            if not (info.get('img_path') or info.get('img_bytes')):
                raise ValueError(f'{name} has captions, but no image file (img_path, img_bytes)')
            for caption in captions:
                if not isinstance(caption, str) or not caption.strip():
                    raise ValueError(f'{name} has an empty caption, or one that is no text: '
                                     f'{caption!r}')  # fmt: skip
            ids = info.get('text_id')
            if ids is None:
                ids = range(len(texts), len(texts) + len(captions))
            ids = list(ids) if isinstance(ids, Iterable) and not isinstance(ids, str) else [ids]
            if len(ids) != len(captions):
                raise ValueError(f'{name} has {len(captions)} captions, but {len(ids)} text_id')
            image_ids.append(info['image_id'])
            text_ids += ids
            texts += captions
            owners += [index] * len(captions)
            checksum = f' {zlib.crc32(info["img_bytes"]):08x}' if info.get('img_bytes') else ''
            paths.append(f'{info.get("img_path", "")}{checksum}')
        _refuse_doubled('image', image_ids, " (is per='image' missing in the data set?)")
        _refuse_doubled('caption', text_ids)
        for name, count in (('images', len(image_ids)), ('captions', len(texts))):
            if count < least:
                raise ValueError(
                    f'recall@{least} needs at least {least} {name}, the data set has {count}: '
                    'evaluate on more, or set a smaller topk in FiberRetrievalRecall'
                )
        return cls(image_ids, text_ids, texts, torch.tensor(owners, dtype=torch.int64), paths)


def _refuse_doubled(what: str, ids: Sequence[Any], hint: str = '') -> None:
    seen: set = set()
    for value in ids:
        if value in seen:
            raise ValueError(f'two {what}s of the evaluation have the id {value!r}{hint}')
        seen.add(value)
