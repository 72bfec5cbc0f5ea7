"""Files of captioned images, made of a finished folder.

Karpathy's JSON, arrow tables and tar shards have the detailed captions of
:mod:`fiber_mm.shapes.captions`; those of Flickr30k and Visual Genome the captions and expressions
of the grounding files. Each file appears under its name only when it is complete, and one that is
there is kept.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TextIO

from fiber_mm.datasets.writers import INDEX, ArrowWriter, ShardWriter, import_pyarrow

from .formats import entities, karpathy, visual_genome
from .scene import Scene, is_train, scene_from_dict

#: What is written on demand, beside Karpathy's JSON of COCO.
FORMATS = ('arrow', 'shards', 'flickr30k', 'entities', 'vg')
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
    written = False
    for path, write in _files(folder, sorted(splits), formats):
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path)
            written = True
    return written


_Write = Callable[[Path], None]


def _files(
    folder: Path, splits: Sequence[str], formats: Sequence[str]
) -> Iterator[tuple[Path, _Write]]:
    """All files, each with what writes it."""
    yield from _karpathy_files(folder, splits, 'coco', karpathy.image_row)
    if 'flickr30k' in formats:
        yield from _karpathy_files(folder, splits, 'flickr30k', karpathy.flickr_row)
    if 'arrow' in formats:
        for name in sorted({name for split in splits for name in _tables(split).values()}):
            own = [split for split in splits if name in _tables(split).values()]
            yield folder / name, partial(_write_arrow, folder, own)
    for split in splits:
        if 'shards' in formats:
            yield folder / 'shards' / split / INDEX, partial(_write_shards, folder, split)
        if 'entities' in formats:
            listed = folder / entities.FOLDER / f'{split}.txt'
            yield listed, partial(_write_entities, folder, split)
        if 'vg' in formats:
            for name, row in visual_genome.ROWS.items():
                write = partial(_write_json, folder, [split], row, '[', ']\n')
                yield folder / name.format(split), write


def _scenes(folder: Path, splits: Sequence[str]) -> Iterator[Scene]:
    for split in splits:
        with (folder / f'scenes_{split}.jsonl').open(encoding='utf-8') as lines:
            for line in lines:
                yield scene_from_dict(json.loads(line))


@contextmanager
def _whole(path: Path) -> Iterator[TextIO]:
    """A text file that appears under its name when it is complete."""
    unfinished = path.with_name(f'.{path.name}.partial')
    try:
        with unfinished.open('w', encoding='utf-8') as out:
            yield out
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _write_json(
    folder: Path,
    splits: Sequence[str],
    row: Callable[[Scene], dict],
    start: str,
    end: str,
    path: Path,
) -> None:
    with _whole(path) as out:
        out.write(start)
        for i, scene in enumerate(_scenes(folder, splits)):
            out.write((',\n' if i else '\n') + json.dumps(row(scene), separators=(',', ':')))
        out.write(end)


def _karpathy_files(
    folder: Path, splits: Sequence[str], dataset: str, row: Callable[[Scene], dict]
) -> Iterator[tuple[Path, _Write]]:
    start = f'{{"dataset":"{dataset}",\n"images":['
    for name in dict.fromkeys(karpathy.path_of(split, dataset) for split in splits):
        own = [split for split in splits if karpathy.path_of(split, dataset) == name]
        yield folder / name, partial(_write_json, folder, own, row, start, ']}\n')


def _tables(split: str) -> dict[str, str]:
    """Karpathy split -> arrow file of a Shapes split, with the released names."""
    own = '' if is_train(split) or split == 'val' else f'_{split}'
    names = ('train', 'val') if is_train(split) else ('test',)
    return {name: f'arrow/coco_caption_karpathy_{name}{own}.arrow' for name in names}


def _write_arrow(folder: Path, splits: Sequence[str], path: Path) -> None:
    name = str(path.relative_to(folder))
    with ArrowWriter(path) as writer:
        for row in map(karpathy.image_row, _scenes(folder, splits)):
            if _tables(row['filepath'])[row['split']] == name:
                image, captions = _content(folder, row)
                writer.add(image, captions, row['filename'], row['split'])


def _write_shards(folder: Path, split: str, path: Path) -> None:
    with ShardWriter(path.parent, split, PER_SHARD) as writer:
        for row in map(karpathy.image_row, _scenes(folder, [split])):
            image, captions = _content(folder, row)
            writer.add(Path(row['filename']).stem, image, captions, row['cocoid'])


def _write_entities(folder: Path, split: str, path: Path) -> None:
    for name in ('Annotations', 'Sentences'):
        (path.parent / name).mkdir(exist_ok=True)
    with _whole(path) as listed:  # last, so that it says that all are there
        for scene in _scenes(folder, [split]):
            for name, content in entities.files(scene).items():
                (path.parent / name).write_bytes(content)
            listed.write(f'{Path(scene.file_name).stem}\n')


def _content(folder: Path, row: dict) -> tuple[bytes, list[str]]:
    image = (folder / row['filepath'] / row['filename']).read_bytes()
    return image, [sentence['raw'] for sentence in row['sentences']]
