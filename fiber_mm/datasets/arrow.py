"""Captioned images in the arrow tables of ViLT and METER, memory-mapped."""

from __future__ import annotations

import os.path as osp
from collections.abc import Sequence
from typing import Any

import numpy as np

from fiber_mm.registry import DATASETS

from .image_text import (
    CaptionChecker,
    FiberImageTextDataset,
    check_choice,
    karpathy_splits,
    pair_index,
)
from .writers import import_pyarrow

#: Number of shards that the original reads.
NUM_GCC, NUM_SBU = 31, 9
COLUMNS = ('image', 'caption', 'image_id')


def arrow_tables(
    name: str, split: str | Sequence[str] = 'train', restval: bool = False
) -> tuple[str, ...]:
    """File names (without ``.arrow``) of a data set, as the original's recipes read them.

    Args:
        name: ``'coco'``, ``'f30k'``, ``'vg'``, ``'gcc'`` (Conceptual Captions) or ``'sbu'``; the
            last three are for training only.
        split: ``'train'``: Karpathy's train + val; ``'test'``; or a list of Karpathy splits.
        restval: Whether COCO's training has restval as well.

    Raises:
        ValueError: for an unknown name or split.
    """
    check_choice('name', name, ('coco', 'f30k', 'vg', 'gcc', 'sbu'))
    if name in ('coco', 'f30k'):
        return tuple(f'{name}_caption_karpathy_{s}' for s in karpathy_splits(split, restval))
    if split != 'train' or restval:
        raise ValueError(f"{name} has training data only: split='train', got {split!r}")
    if name == 'vg':
        return ('vg',)
    if name == 'gcc':
        return tuple(f'conceptual_caption_train_{i}' for i in range(NUM_GCC))
    return tuple(f'sbu_{i}' for i in range(NUM_SBU))


@DATASETS.register_module()
class FiberArrowDataset(FiberImageTextDataset):
    """Captioned images in arrow IPC files (``{name}.arrow``), one image a row.

    Columns ``image`` (the image file), ``caption`` (a list of texts) and ``image_id`` are read.
    Files are memory-mapped: processes of a machine share one copy, and workers hold three integers
    per caption. ``text_id`` is ``'table/row/place'``. See :class:`FiberImageTextDataset`.

    Args:
        name, split, restval: see :func:`arrow_tables`.
        tables: File names without ``.arrow``, or one, instead of those three. They are parts of
            one set, in which an ``image_id`` is there once; further sets go into a
            ``ConcatDataset``.
        data_root: Folder of the files.

    Raises:
        ValueError: if there is no table, or one twice, and for faulty files.
    """

    def __init__(
        self,
        name: str | None = None,
        split: str | Sequence[str] = 'train',
        restval: bool = False,
        tables: str | Sequence[str] | None = None,
        data_root: str = '',
        **kwargs: Any,
    ) -> None:
        if (name is None) == (tables is None):
            raise ValueError(f'give either name or tables, got name={name!r}, tables={tables!r}')
        if isinstance(tables, str):
            tables = [tables]
        names = arrow_tables(name, split, restval) if tables is None else tuple(tables)
        self.paths = [osp.normpath(osp.join(data_root, f'{table}.arrow')) for table in names]
        doubled = sorted({path for path in self.paths if self.paths.count(path) > 1})
        if doubled or not names:
            raise ValueError(
                f'tables are given twice: {doubled}; name each once'
                if names
                else f'no table is given: name={name!r}, split={split!r}, tables={tables!r}'
            )
        self._columns: list[dict] | None = None
        self._starts = np.zeros(1, np.int64)
        self._kept = np.zeros(0, np.int32)  # rows, counted over all tables
        super().__init__(data_root=data_root, **kwargs)

    # -- tables --

    def full_init(self) -> None:
        """Open the tables and list their pairs."""
        if self._fully_initialized:
            return
        tables = self._open()
        self._starts = np.cumsum([0, *(len(table['image_id']) for table in tables)])
        row, place, counts = [], [], []
        doubled = self._doubled(tables)
        for path, start, table, again in zip(self.paths, self._starts, tables, doubled):
            checker = CaptionChecker(path, self.on_error)
            rows, places = _pairs_of(table, again, checker)
            checker.log(len(np.unique(rows)), len(rows))
            row.append(rows + start)
            place.append(places)
        rows, self._places = np.concatenate(row), np.concatenate(place).astype(np.int32)
        self._kept, counts = np.unique(rows, return_counts=True)
        if self._indices is not None:
            self._cut(self._indices, counts)
        else:
            self._pairs = pair_index(counts)
        if not len(self._kept):
            raise ValueError(f'{self.source} have no image with a caption')
        self._fully_initialized = True

    def _doubled(self, tables: list[dict]) -> list[dict[int, str]]:
        """Rows of each table whose image id was there before; where, if in another table."""
        rows, firsts = _repeated([table['image_id'] for table in tables])
        numbers, others = np.searchsorted(self._starts, [rows, firsts], side='right') - 1
        doubled: list[dict[int, str]] = [{} for _ in tables]
        for row, first, number, other in zip(rows, firsts, numbers, others):
            where = (
                f', as in row {first - self._starts[other]} of {self.paths[other]} (sets that '
                'number their images alike go into a ConcatDataset)'
            )
            doubled[number][int(row - self._starts[number])] = where if other != number else ''
        return doubled

    def _open(self) -> list[dict]:
        if self._columns is None:
            missing = [path for path in self.paths if not osp.isfile(path)]
            if missing:
                raise FileNotFoundError(
                    f'{len(missing)} of {len(self.paths)} arrow files are not there: '
                    f'{", ".join(missing[:4])}{" ..." if len(missing) > 4 else ""}; name those '
                    'that you have in tables=[...]'
                )
            self._columns = [_open_table(path) for path in self.paths]
        return self._columns

    def __getstate__(self) -> dict:
        # Spawned workers map the files anew.
        return {**self.__dict__, '_columns': None}

    # -- what the base class asks for --

    @property
    def num_images(self) -> int:
        """Images, which are fewer than pairs."""
        return len(self._kept)

    def _texts(self, index: int) -> tuple[int, int, list[int]]:
        """Table, its row, and the places of an image's captions."""
        row = int(self._kept[index])
        table = int(np.searchsorted(self._starts, row, side='right')) - 1
        # int32 as the array is: of another type, the whole array would be converted each time.
        ends = np.array([index, index + 1], np.int32)
        first, last = np.searchsorted(self._pairs[0], ends)
        return table, row - int(self._starts[table]), self._places[first:last].tolist()

    def image_info(self, index: int) -> dict:
        """One row, with all its captions."""
        number, row, places = self._texts(index)
        table = self._open()[number]
        captions = table['caption'][row].as_py()
        name = osp.splitext(osp.basename(self.paths[number]))[0]
        image_id = table['image_id'][row].as_py()
        return dict(
            img_path=f'{self.paths[number]} (row {row}, image_id {image_id})',
            img_bytes=table['image'][row].as_py() or b'',
            image_id=image_id,
            image_index=index,
            text=[captions[place] for place in places],
            text_id=[f'{name}/{row}/{place}' for place in places],
        )

    def _cut(self, indices: Sequence[int] | int, counts: np.ndarray) -> None:
        """Keep some of the images."""
        ends = np.cumsum(counts)
        if isinstance(indices, int):
            chosen = np.arange(len(counts))[:indices] if indices >= 0 else (
                np.arange(len(counts))[indices:])  # fmt: skip
        else:
            chosen = np.asarray(indices, np.int64)
        places = [self._places[ends[i] - counts[i] : ends[i]] for i in chosen]
        self._places = np.concatenate([np.zeros(0, np.int32), *places])
        self._kept = self._kept[chosen]
        self._pairs = pair_index(counts[chosen])

    def get_subset_(self, indices: Sequence[int] | int) -> None:
        """Keep some of the images; see mmengine."""
        self.full_init()
        self._cut(indices, np.bincount(self._pairs[0], minlength=self.num_images))

    def get_subset(self, indices: Sequence[int] | int) -> FiberArrowDataset:
        """A data set of some of the images; see mmengine."""
        self.full_init()
        columns, self._columns = self._columns, None  # not to be copied
        subset = self._copy_without_annotation()
        self._columns = subset._columns = columns
        subset.get_subset_(indices)
        return subset

    @property
    def source(self) -> str:
        """Files that the data comes from."""
        return self.paths[0] if len(self.paths) == 1 else f'{self.paths[0]} and further tables'


def _open_table(path: str) -> dict:
    """Memory-map a file; its columns by name."""
    pa = import_pyarrow()
    try:
        table = pa.ipc.open_file(pa.memory_map(path, 'r')).read_all()
    except pa.ArrowInvalid as error:
        raise ValueError(
            f'{path} is no complete arrow IPC file ({error}); write or copy it again'
        ) from error
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise ValueError(
            f'{path} has no column {missing}, only {table.column_names}; a table of captions has '
            f'{", ".join(COLUMNS)}'
        )
    columns = {name: table[name] for name in COLUMNS}
    image, caption = columns['image'].type, columns['caption'].type
    if not (pa.types.is_binary(image) or pa.types.is_large_binary(image)):
        raise ValueError(
            f'{path}: column image has the type {image}, the bytes of an image file are wanted'
        )
    listed = pa.types.is_list(caption) or pa.types.is_large_list(caption)
    if listed and pa.types.is_null(caption.value_type):  # no image has a caption
        columns['caption'] = columns['caption'].cast(pa.list_(pa.string()))
    elif not listed or not (
        pa.types.is_string(caption.value_type) or pa.types.is_large_string(caption.value_type)
    ):
        raise ValueError(
            f'{path}: column caption has the type {caption}, a list of texts per image is wanted'
        )
    return columns


def _pairs_of(
    table: dict, doubled: dict[int, str], checker: CaptionChecker
) -> tuple[np.ndarray, np.ndarray]:
    """Row and place of each usable caption, each text once per row, in order; (N,) int64 both.

    Args:
        table: Columns.
        doubled: Rows whose image id was there before, and what a message says of it.
        checker: Takes the faults.
    """
    pa = import_pyarrow()
    import pyarrow.compute as pc

    size = len(table['image_id'])
    usable = np.ones(size, bool)
    for row, where in doubled.items():
        checker.fault('doubled image id', f'row {row}, image_id {table["image_id"][row]}{where}')
        usable[row] = False
    empty = pc.fill_null(pc.equal(pc.binary_length(table['image']), 0), True)
    for row in np.flatnonzero(empty.to_numpy()):
        checker.fault('captions without image', f'row {row}, image_id {table["image_id"][row]}')
        usable[row] = False

    lengths = pc.fill_null(pc.list_value_length(table['caption']), 0).to_numpy()
    rows = np.repeat(np.arange(size), lengths)
    places = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    texts = pc.list_flatten(table['caption'])
    blank = pc.fill_null(pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(texts)), 0), True)
    blank = blank.to_numpy()
    for number in np.flatnonzero(blank & usable[rows]):
        checker.fault('empty caption', f'caption {places[number]} of row {rows[number]}')
    first = pa.table({'row': rows, 'text': texts, 'number': np.arange(len(rows))})
    first = first.group_by(['row', 'text']).aggregate([('number', 'min')])['number_min'].to_numpy()
    is_first = np.zeros(len(rows), bool)
    is_first[first] = True
    keep = is_first & ~blank & usable[rows]
    checker.left_out['repeated captions of an image'] += int(
        (~is_first & ~blank & usable[rows]).sum()
    )
    for row in np.flatnonzero(usable & (np.bincount(rows[keep], minlength=size) == 0)):
        checker.fault('image without caption', f'row {row}, image_id {table["image_id"][row]}')
    return rows[keep], places[keep]


def _repeated(columns: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Rows, counted over all columns, whose value was there before, and where; (N,) int64 both."""
    pa = import_pyarrow()
    chunks = [chunk for column in columns for chunk in column.cast(pa.string()).chunks]
    values = pa.chunked_array(chunks, pa.string()).combine_chunks()
    codes = values.dictionary_encode('encode').indices.to_numpy()
    _, first, number = np.unique(codes, return_index=True, return_inverse=True)
    rows = np.flatnonzero(first[number] != np.arange(len(codes)))
    return rows, first[number][rows]
