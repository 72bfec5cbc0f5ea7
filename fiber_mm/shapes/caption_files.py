"""Files of captioned images, made of a finished folder: Karpathy's JSON, arrow tables, tar shards.

They have the detailed captions of :mod:`fiber_mm.shapes.captions`. Each file appears under its name
only when it is complete, and one that is there is kept.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from fiber_mm.datasets.writers import INDEX, ArrowWriter, ShardWriter, import_pyarrow

from .formats import karpathy
from .scene import is_train, scene_from_dict

#: What is written on demand, beside Karpathy's JSON.
FORMATS = ('arrow', 'shards')
PER_SHARD = 100


def check_formats(formats: Sequence[str]) -> None:
    """Find out early what cannot be written.

    Raises:
        ValueError: for an unknown format.
        ModuleNotFoundError: if pyarrow is needed and not there.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise ValueError(f'unknown formats {unknown}; there are {", ".join(FORMATS)}')
    if 'arrow' in formats:
        import_pyarrow()


def write_caption_files(folder: Path, splits: Sequence[str], formats: Sequence[str] = ()) -> bool:
    """Write Karpathy's JSON and the formats asked for, as far as they are not there.

    Args:
        folder: A Shapes folder with images and scenes.
        splits: Its splits.
        formats: Some of ``FORMATS``.

    Returns: whether anything had to be written.
    """
    splits = sorted(splits)
    todo = [(_write_json, folder / path) for path in dict.fromkeys(map(karpathy.path_of, splits))]
    if 'arrow' in formats:
        for path in sorted({p for split in splits for p in _tables(split).values()}):
            todo.append((_write_arrow, folder / path))
    if 'shards' in formats:
        todo += [(_write_shards, folder / 'shards' / split / INDEX) for split in splits]
    written = False
    for write, path in todo:
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            write(folder, splits, path)
            written = True
    return written


def _rows(folder: Path, splits: Sequence[str], keep: Callable[[str], bool]) -> Iterator[dict]:
    """Karpathy's entries of some splits."""
    for split in filter(keep, splits):
        with (folder / f'scenes_{split}.jsonl').open(encoding='utf-8') as lines:
            for line in lines:
                yield karpathy.image_row(scene_from_dict(json.loads(line)))


def _write_json(folder: Path, splits: Sequence[str], path: Path) -> None:
    name = str(path.relative_to(folder))
    partial = path.with_name(f'.{path.name}.partial')
    try:
        with partial.open('w', encoding='utf-8') as out:
            out.write('{"dataset":"coco",\n"images":[')
            rows = _rows(folder, splits, lambda split: karpathy.path_of(split) == name)
            for i, row in enumerate(rows):
                out.write((',\n' if i else '\n') + json.dumps(row, separators=(',', ':')))
            out.write(']}\n')
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _tables(split: str) -> dict[str, str]:
    """Karpathy split -> arrow file of a Shapes split, with the released names."""
    own = '' if is_train(split) or split == 'val' else f'_{split}'
    names = ('train', 'val') if is_train(split) else ('test',)
    return {name: f'arrow/coco_caption_karpathy_{name}{own}.arrow' for name in names}


def _write_arrow(folder: Path, splits: Sequence[str], path: Path) -> None:
    name = str(path.relative_to(folder))
    with ArrowWriter(path) as writer:
        for row in _rows(folder, splits, lambda split: name in _tables(split).values()):
            if _tables(row['filepath'])[row['split']] == name:
                image, captions = _content(folder, row)
                writer.add(image, captions, row['filename'], row['split'])


def _write_shards(folder: Path, splits: Sequence[str], path: Path) -> None:
    split = path.parent.name
    with ShardWriter(path.parent, split, PER_SHARD) as writer:
        for row in _rows(folder, splits, split.__eq__):
            image, captions = _content(folder, row)
            writer.add(Path(row['filename']).stem, image, captions, row['cocoid'])


def _content(folder: Path, row: dict) -> tuple[bytes, list[str]]:
    image = (folder / row['filepath'] / row['filename']).read_bytes()
    return image, [sentence['raw'] for sentence in row['sentences']]
