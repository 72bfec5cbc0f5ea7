"""Captioned images for pre-training, retrieval and captioning: one sample is one pair.

Annotations are kept per image, serialised in one array that workers share; what a worker holds
beside it are two integers per caption.
"""

from __future__ import annotations

import os.path as osp
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset, force_full_init

from fiber_mm.registry import DATASETS

from .annotations import LeftOut, check_objects, log_counts, read_json
from .transforms.boxes import DropCounter
from .transforms.image import UnreadableImageError

#: So many unreadable images in a row mean that the data is not there.
MOST_UNREADABLE = 100
UNREADABLE = (UnreadableImageError, FileNotFoundError)


class CaptionChecker:
    """Finds faulty annotations: an error for the first, or a count of all.

    Args:
        source: File that the annotations come from.
        on_error: ``'raise'`` or ``'skip'``.
    """

    def __init__(self, source: str, on_error: str) -> None:
        self.source = source
        self.on_error = on_error
        self.left_out = LeftOut()
        self._images: set = set()
        self._texts: set = set()

    def fault(self, what: str, where: str) -> None:
        """Note one fault, such as ``'empty captions'``, or raise.

        Raises:
            ValueError: If faults are errors.
        """
        if self.on_error == 'raise':
            raise ValueError(
                f'{self.source}: {where}: {what}; correct the annotation, or leave such ones out '
                "of training with on_error='skip', which counts them in the log"
            )
        self.left_out.add(what, where)

    def new_image(self, image_id: Any) -> bool:
        """Whether this is the first image of its id."""
        if image_id in self._images:
            self.fault('doubled image id', f'image {image_id}')
            return False
        self._images.add(image_id)
        return True

    def captions(
        self, image_id: Any, captions: Iterable[tuple[Any, Any]]
    ) -> tuple[list[Any], list[str]]:
        """The usable captions of an image, each once, as the original does.

        Args:
            image_id: For messages.
            captions: Pairs of caption id (None: becomes ``'image_id/place'``) and caption.

        Returns:
            Ids and texts in their order.
        """
        ids, texts, seen = [], [], set()
        for place, (id_, text) in enumerate(captions):
            if id_ is None:
                id_ = f'{image_id}/{place}'
            where = f'caption {id_} of image {image_id}'
            if id_ in self._texts:
                self.fault('doubled caption id', where)
                continue
            self._texts.add(id_)
            if not isinstance(text, str) or not text.strip():
                self.fault('empty caption', f'{where} is {text!r}')
            elif text in seen:
                self.left_out['repeated captions of an image'] += 1
            else:
                seen.add(text)
                ids.append(id_)
                texts.append(text)
        if not texts:
            self.fault('image without caption', f'image {image_id}')
        return ids, texts

    def log(self, num_images: int, num_pairs: int) -> None:
        """Log what there is and what was left out."""
        log_counts(f'{self.source}: {num_images} images', num_pairs, self.left_out)


class FiberImageTextDataset(BaseDataset):
    """What the readers of captioned images share.

    Samples have ``img_path`` (or ``img_bytes`` and in ``img_path`` where they come from),
    ``image_id``, ``image_index`` (0-based, in the order of the images), and

    - per caption: ``text`` (str) and ``text_id``;
    - per image, for retrieval evaluation: ``text`` (list of str) and ``text_id`` (list).

    Captions are given raw, as in the original; a caption that an image has twice counts once.

    Args:
        per: ``'caption'``: a sample is one (image, caption) pair; ``'image'``: an image with all
            its captions.
        on_error: ``'raise'``: faulty annotations and unreadable images are errors. ``'skip'``:
            faulty annotations are left out, and for an unreadable image the next readable sample
            is taken (a second time); both are counted in the log. Not for evaluation.
        indices: As in mmengine, counting images.
        **kwargs: As in mmengine's ``BaseDataset``.

    Raises:
        ValueError: for ``on_error='skip'`` with ``test_mode``, and for faulty files.
    """

    def __init__(
        self, *args: Any, per: str = 'caption', on_error: str = 'raise', **kwargs: Any
    ) -> None:
        self.per, self.on_error = per, on_error
        check_choice('per', per, ('caption', 'image'))
        check_on_error(on_error, kwargs.get('test_mode', False))
        self.unreadable = DropCounter('samples with an unreadable image')
        # (N,) int32 and int32: image of each pair, and the caption's place among those of it
        self._pairs = np.zeros((2, 0), np.int32)
        super().__init__(*args, **kwargs)

    # -- what a reader defines --

    def load_images(self, checker: CaptionChecker) -> Iterator[dict]:
        """Yield for each image img_path, image_id, text (list of str), text_id (list)."""
        raise NotImplementedError

    # -- annotations --

    def load_data_list(self) -> list[dict]:
        """Annotations of all images."""
        checker = CaptionChecker(self.ann_file, self.on_error)
        images = [dict(image, image_index=i) for i, image in enumerate(self.load_images(checker))]
        checker.log(len(images), sum(len(image['text']) for image in images))
        if not images:
            raise ValueError(f'{self.ann_file} has no image with a caption')
        return images

    def full_init(self) -> None:
        """Load the annotations."""
        if not self._fully_initialized:
            super().full_init()
            self._make_pairs()

    def _make_pairs(self) -> None:
        counts = np.array([len(self.image_info(i)['text']) for i in range(self.num_images)])
        self._pairs = pair_index(counts)

    @property
    def num_images(self) -> int:
        """Images, which are fewer than pairs."""
        return len(self.data_address) if self.serialize_data else len(self.data_list)

    def image_info(self, index: int) -> dict:
        """Annotation of one image, with all its captions."""
        return BaseDataset.get_data_info(self, index)

    @force_full_init
    def __len__(self) -> int:
        return self.num_images if self.per == 'image' else self._pairs.shape[1]

    @force_full_init
    def get_data_info(self, idx: int) -> dict:
        """Annotation of one sample."""
        idx = range(len(self))[idx]
        if self.per == 'image':
            info = self.image_info(idx)
        else:
            image, place = self._pairs[:, idx].tolist()
            info = self.image_info(image)
            info['text'], info['text_id'] = info['text'][place], info['text_id'][place]
        info['sample_idx'] = idx
        return info

    def get_subset_(self, indices: Sequence[int] | int) -> None:
        """Keep some of the images; see mmengine."""
        super().get_subset_(indices)
        self._make_pairs()

    def get_subset(self, indices: Sequence[int] | int) -> FiberImageTextDataset:
        """A data set of some of the images; see mmengine."""
        subset = super().get_subset(indices)
        subset._make_pairs()
        return subset

    # -- samples --

    def __getitem__(self, idx: int) -> Any:
        if self.on_error == 'raise':
            return self._read(idx)
        for step in range(min(len(self), MOST_UNREADABLE)):
            try:
                return self._read((idx + step) % len(self))
            except UNREADABLE as error:
                self.unreadable.add(1, str(error))
        raise UnreadableImageError(
            f'{self.source}: none of {step + 1} samples from {idx} on can be read; the last: '
            f'{self.unreadable.last}. Are the images where data_prefix says?'
        )

    def _read(self, idx: int) -> Any:
        try:
            return super().__getitem__(idx)
        except UNREADABLE as error:
            info = self.get_data_info(idx)
            raise type(error)(
                f'{self.source}: image {info["image_id"]} (sample {idx}): {error}'
            ) from error

    @property
    def source(self) -> str:
        """File that the annotations come from."""
        return self.ann_file


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise a ValueError unless a setting is one of some words."""
    if value not in choices:
        raise ValueError(f'{name} must be one of {", ".join(map(repr, choices))}, got {value!r}')


def check_on_error(on_error: str, test_mode: bool) -> None:
    """Raise a ValueError for an unknown ``on_error``, or one that evaluation cannot have."""
    check_choice('on_error', on_error, ('raise', 'skip'))
    if on_error == 'skip' and test_mode:
        raise ValueError(
            "on_error='skip' is for training: an evaluation (test_mode=True) that leaves samples "
            'out has other numbers; mend the data'
        )


def pair_index(counts: np.ndarray) -> np.ndarray:
    """Pairs of images and captions in order.

    Args:
        counts: (I,) captions of each image.

    Returns:
        (2, N) int32: image of each pair; place of the caption within its image.
    """
    counts = np.asarray(counts, np.int64)
    images = np.repeat(np.arange(len(counts)), counts)
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    return np.stack([images, np.arange(len(images)) - starts]).astype(np.int32)


#: Karpathy splits that the original reads for training and for what it calls validation.
KARPATHY_SPLITS = {'train': ('train', 'val'), 'test': ('test',)}


def karpathy_splits(split: str | Sequence[str], restval: bool = False) -> tuple[str, ...]:
    """Names in the file of a split.

    Args:
        split: ``'train'`` (train + val) or ``'test'``, as released; or a list of names, taken as
            they are.
        restval: Whether training has COCO's restval as well; the original leaves it out.

    Raises:
        ValueError: for another word.
    """
    if not isinstance(split, str):
        if restval:
            raise ValueError(f"restval=True goes with split='train'; add it to the list {split}")
        return tuple(split)
    if split not in KARPATHY_SPLITS:
        raise ValueError(
            f"split must be 'train' (Karpathy's train + val) or 'test', as the original has them, "
            f'or a list of names such as [{split!r}], got {split!r}'
        )
    if restval and split != 'train':
        raise ValueError(f"restval=True goes with split='train', got {split!r}")
    return KARPATHY_SPLITS[split] + (('restval',) if restval else ())


@DATASETS.register_module()
class FiberKarpathyDataset(FiberImageTextDataset):
    """COCO and Flickr30k captions in Karpathy's JSON (``dataset_coco.json``).

    Images lie in ``data_prefix['img_path']``, below the ``filepath`` of the file where it has one
    (``val2014`` of COCO). ``image_id`` is ``cocoid``, or ``imgid`` where there is none; ``text_id``
    is ``sentid``, or ``'image_id/place'``. See :class:`FiberImageTextDataset`.

    Args:
        split, restval: see :func:`karpathy_splits`. The original trains on train + val and
            evaluates on test.
    """

    def __init__(
        self, *args: Any, split: str | Sequence[str] = 'train', restval: bool = False, **kwargs: Any
    ) -> None:
        self.splits = karpathy_splits(split, restval)
        super().__init__(*args, **kwargs)

    def load_images(self, checker: CaptionChecker) -> Iterator[dict]:
        """Read the annotation file."""
        images = read_json(self.ann_file, ('images',))['images']
        images = check_objects(images, f'{self.ann_file}: images')
        there = Counter(image.get('split') for image in images)
        missing = [name for name in self.splits if not there[name]]
        if missing:
            raise ValueError(
                f'{self.ann_file} has no image of the split {missing}, only {dict(there)}'
            )
        wanted = ('split', 'filename', 'imgid', 'sentences')
        for number, image in enumerate(images):
            if 'split' in image and image['split'] not in self.splits:
                continue
            absent = [key for key in wanted if key not in image]
            if absent:
                raise ValueError(
                    f'{self.ann_file}: images[{number}] has no {absent}, only {sorted(image)}; '
                    'correct the annotation'
                )
            image_id = image.get('cocoid', image['imgid'])
            if not checker.new_image(image_id):
                continue
            sentences = check_objects(
                image['sentences'], f'{self.ann_file}: images[{number}].sentences'
            )
            sentences = [(s.get('sentid'), s.get('raw')) for s in sentences]
            ids, texts = checker.captions(image_id, sentences)
            if texts:
                path = osp.join(
                    self.data_prefix.get('img_path', ''),
                    image.get('filepath', ''),
                    image['filename'],
                )
                yield dict(img_path=path, image_id=image_id, text=texts, text_id=ids)


@DATASETS.register_module()
class FiberVGCaptionDataset(FiberImageTextDataset):
    """Visual Genome's region descriptions as captions of the whole image.

    ``ann_file`` is ``region_descriptions.json``. Images are ``{image_id}.jpg`` in
    ``data_prefix['img_path']``, or, with ``image_data``, where the last two parts of their address
    there say (``VG_100K_2/1.jpg``). ``text_id`` is ``region_id``. See
    :class:`FiberImageTextDataset`.

    Args:
        image_data: ``image_data.json`` below ``data_root``.
    """

    def __init__(
        self, *args: Any, data_root: str = '', image_data: str | None = None, **kwargs: Any
    ) -> None:
        self.image_data = image_data and osp.join(data_root, image_data)
        super().__init__(*args, data_root=data_root, **kwargs)

    def load_images(self, checker: CaptionChecker) -> Iterator[dict]:
        """Read the annotation file."""
        rows = check_objects(read_json(self.ann_file), f'{self.ann_file}: rows')
        if not all('regions' in row and _vg_id(row) is not None for row in rows):
            raise ValueError(
                f"{self.ann_file} is no region_descriptions.json: a list of objects with 'id' and "
                "'regions' is wanted"
            )
        places = self._places()
        for number, row in enumerate(rows):
            image_id = _vg_id(row)
            if not checker.new_image(image_id):
                continue
            if places is not None and image_id not in places:
                checker.fault('captions without image', f'image {image_id} in {self.image_data}')
                continue
            regions = check_objects(row['regions'], f'{self.ann_file}: rows[{number}].regions')
            regions = [(r.get('region_id'), r.get('phrase')) for r in regions]
            ids, texts = checker.captions(image_id, regions)
            if texts:
                name = f'{image_id}.jpg' if places is None else places[image_id]
                path = osp.join(self.data_prefix.get('img_path', ''), name)
                yield dict(img_path=path, image_id=image_id, text=texts, text_id=ids)

    def _places(self) -> dict[Any, str] | None:
        if not self.image_data:
            return None
        images = check_objects(read_json(self.image_data), f'{self.image_data}: rows')
        if not all(_vg_id(image) is not None and 'url' in image for image in images):
            raise ValueError(
                f"{self.image_data} is no image_data.json: a list of objects with 'image_id' and "
                "'url' is wanted"
            )
        return {_vg_id(image): '/'.join(image['url'].split('/')[-2:]) for image in images}


def _vg_id(row: dict) -> Any:
    """An image's id, by either of the names that the files have for it; None if it has none."""
    return row['id'] if 'id' in row else row.get('image_id')
