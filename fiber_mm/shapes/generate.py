"""Writes Shapes folders: images, annotations in all formats, scene graphs, tokenizer."""

from __future__ import annotations

import gc
import json
import math
import multiprocessing
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import cv2
from tqdm import tqdm

from . import formats
from . import vocabulary as V
from .annotate import annotate
from .caption_files import check_formats, write_caption_files
from .formats import entities, lvis, odvg
from .language import speak
from .relations import View
from .render import encode, render
from .scene import Scene, is_train, sample_scene
from .tokenizer import write_tokenizer

VERSION = 2  # raised whenever the same settings would give other files
_CHUNK = 25
_TAKEN = ('annotations', 'tokenizer', 'arrow', 'shards', entities.FOLDER)
_MAX_IMAGES = 1_000_000  # ids of splits do not overlap up to here


def make_scene(seed: int, split: str, index: int, image_size: int = 256) -> tuple[Scene, bytes]:
    """One scene with annotations and texts, and its JPEG."""
    return _make_scene(seed, split, index, image_size)[:2]


def _make_scene(seed: int, split: str, index: int, image_size: int) -> tuple[Scene, bytes, View]:
    scene, canvas, rng = sample_scene(seed, split, index, image_size)
    view = annotate(scene, canvas)
    speak(scene, rng, view)
    return scene, encode(render(scene, canvas.patches), scene.effects['quality']), view


_dump = json.JSONEncoder(separators=(',', ':'), check_circular=False).encode
_JOINT = ',\n'  # between the rows of a list in a JSON file
_MARK = '\0'  # no row is this string, and none contains it


def _dump_rows(rows: list[Any], joint: str) -> str:
    """JSON of each row, with ``joint`` between; one call of the encoder for all is much faster."""
    if not rows:
        return ''
    marked = [_MARK] * (2 * len(rows) - 1)
    marked[::2] = rows
    return _dump(marked)[1:-1].replace(f',{_dump(_MARK)},', joint)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Without Python's search for reference cycles, for code that makes many objects but no cycles.

    With PyTorch imported one full search takes as long as 50 images.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@_no_garbage_collection()
def _work(job: tuple[str, int, str, int, int, int]) -> tuple[int, dict, list]:
    """Write the images of one chunk; returns their number, rows as text, LVIS categories."""
    folder, seed, split, start, stop, image_size = job
    rows: dict[tuple[str, str], list[Any]] = {}
    categories = []
    for index in range(start, stop):
        scene, jpeg, view = _make_scene(seed, split, index, image_size)
        with open(f'{folder}/{split}/{scene.file_name}', 'wb') as out:
            out.write(jpeg)
        made = formats.scene_rows(scene, view)
        for key, values in made.items():
            rows.setdefault(key, []).extend(values)
        found = made[lvis.PATH.format(split), 'annotations']
        categories.append([a['category_id'] for a in found])
    texts = {
        (path, section): _dump_rows(values, _JOINT if section else '\n')
        for (path, section), values in rows.items()
    }
    return stop - start, texts, categories


class _Sections:
    """Collects rows on disk, section by section, and joins them into JSON files at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[tuple[str, str], BinaryIO] = {}

    def add(self, texts: dict[tuple[str, str], str]) -> None:
        """Append rows, joined as in the file; a section whose text is empty is there, too."""
        for (path, section), text in texts.items():
            out = self._files.get((path, section))
            if out is None:
                name = f'{path}.{section}.part' if section else path
                out = self._files[path, section] = (self.folder / name).open('wb')
            if text:
                first = not out.tell()
                text = ('\n' if first else _JOINT) + text if section else text + '\n'
                out.write(text.encode())

    def close(self, headers: dict[str, dict[str, Any]]) -> None:
        parts: dict[str, list[str]] = {}
        for (path, section), handle in self._files.items():
            handle.close()
            if section:
                parts.setdefault(path, []).append(section)
        for path, sections in parts.items():
            with (self.folder / path).open('wb') as out:
                out.write(_dump(headers[path])[:-1].encode())
                for section in sections:
                    out.write(f',\n"{section}":['.encode())
                    part = self.folder / f'{path}.{section}.part'
                    with part.open('rb') as rows:
                        shutil.copyfileobj(rows, out)
                    part.unlink()
                    out.write(b']')
                out.write(b'}\n')


def settings_of(splits: dict[str, int], seed: int, image_size: int) -> dict[str, Any]:
    """What two folders must agree in to be the same."""
    return dict(version=VERSION, seed=seed, image_size=image_size, splits=dict(splits))


def read_meta(out: Path) -> dict[str, Any] | None:
    """meta.json of a complete Shapes folder, else None."""
    path = Path(out) / 'meta.json'
    if not path.is_file():
        return None
    meta = json.loads(path.read_text(encoding='utf-8'))
    return meta if isinstance(meta, dict) and meta.get('dataset') == 'shapes' else None


def _check_arguments(splits: dict[str, int], seed: int, image_size: int) -> None:
    if not splits:
        raise ValueError("no splits given; want for example {'train': 2000, 'val': 500}")
    for name, count in splits.items():
        if not name.replace('_', '').isalnum():
            raise ValueError(f'split name {name!r}: letters, digits and _ only')
        if name in _TAKEN:
            raise ValueError(f'split name {name!r} is taken by a folder of the format')
        if not 1 <= count <= _MAX_IMAGES:
            raise ValueError(f'split {name!r}: {count} images; want 1 to {_MAX_IMAGES}')
    if seed < 0:
        raise ValueError(f'seed {seed}: want 0 or more')
    if not 128 <= image_size <= 1024:
        raise ValueError(f'image_size {image_size}: want 128 to 1024 pixels')


@contextmanager
def _lock(out: Path) -> Iterator[None]:
    """One process at a time for one folder; others wait."""
    out.parent.mkdir(parents=True, exist_ok=True)
    path = out.parent / f'.{out.name}.lock'
    with path.open('w') as handle:
        try:
            import fcntl
        except ImportError:  # not on Windows: no protection there
            yield
            return
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _jobs(folder: Path, splits: dict[str, int], seed: int, image_size: int) -> list[tuple]:
    return [
        (str(folder), seed, split, start, min(start + _CHUNK, count), image_size)
        for split, count in sorted(splits.items())  # a file may have rows of several
        for start in range(0, count, _CHUNK)
    ]


@contextmanager
def _one_opencv_thread() -> Iterator[None]:
    """OpenCV without threads, set before processes fork.

    A forked child cannot change the number itself: it would wait for the parent's threads.
    """
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _results(jobs: list[tuple], workers: int) -> Iterator[tuple[int, dict, list]]:
    """Results in the order of the jobs."""
    if workers <= 1:
        yield from map(_work, jobs)
        return
    # Forked workers start at once; spawned ones import the whole package first.
    method = 'fork' if sys.platform.startswith('linux') else 'spawn'
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context(method))
    try:
        yield from pool.map(_work, jobs)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _write_folder(
    folder: Path,
    splits: dict[str, int],
    seed: int,
    image_size: int,
    workers: int,
    progress: bool,
) -> None:
    for split in splits:
        (folder / split).mkdir(parents=True)
    (folder / 'annotations').mkdir()
    sections = _Sections(folder)
    counts = {split: lvis.Counts() for split in splits}
    jobs = _jobs(folder, splits, seed, image_size)
    with tqdm(total=sum(splits.values()), unit='img', desc='Shapes', disable=not progress) as bar:
        for job, (done, rows, found) in zip(jobs, _results(jobs, workers)):
            sections.add(rows)
            for ids in found:
                counts[job[2]].add(ids)
            bar.update(done)
    headers = {}
    train = next((s for s in splits if is_train(s)), None)
    for split in splits:
        headers.update(formats.headers(split))
        headers[lvis.PATH.format(split)] = lvis.header(counts[train or split])
    sections.close(headers)
    for name, content in odvg.label_maps().items():
        (folder / 'annotations' / name).write_text(json.dumps(content, indent=1) + '\n')
    write_tokenizer(folder / 'tokenizer')


def _write_meta(folder: Path, settings: dict[str, Any]) -> None:
    meta = dict(
        dataset='shapes',
        **settings,
        colours=list(V.COLOURS),
        shapes=list(V.SHAPES),
        textures=list(V.TEXTURES),
        classes=list(V.CATEGORIES),
        seen=list(V.SEEN),
        held_out=list(V.HELD_OUT),
    )
    with (folder / 'meta.json').open('w', encoding='utf-8') as out:
        out.write(json.dumps(meta, indent=1) + '\n')
        out.flush()
        os.fsync(out.fileno())


def _existing(out: Path, settings: dict[str, Any], overwrite: bool) -> bool:
    """Whether a complete folder with these settings is there; an error if anything else is."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    meta = read_meta(out)
    if meta is None:
        raise FileExistsError(
            f'{out} exists and is no Shapes folder (no meta.json of one): '
            'it is left alone, choose another path or remove it'
        )
    there = {k: meta.get(k) for k in settings}
    if there == settings and not overwrite:
        return True
    if not overwrite:
        other = [f'{k} {there[k]} there, {v} wanted' for k, v in settings.items() if there[k] != v]
        raise FileExistsError(
            f'{out} holds Shapes with other settings: {"; ".join(other)}. '
            'Choose another path, or overwrite it (--overwrite)'
        )
    return False


def generate_shapes(
    out: str | Path,
    splits: dict[str, int],
    seed: int = 0,
    image_size: int = 256,
    *,
    formats: Sequence[str] = (),
    overwrite: bool = False,
    workers: int | None = None,
    progress: bool = True,
) -> bool:
    """Write a Shapes folder, or find it complete.

    The folder is built beside its final place and renamed when it is complete, so that an
    interrupted run or a full disk leaves no folder that looks finished.

    Args:
        out: the folder.
        splits: number of images by split name. Names that begin with 'train' have seen classes
            only, others held-out ones too.
        seed: an image depends on seed, split, its index and ``image_size``, on nothing else.
        image_size: side of the images in pixels.
        formats: further files of captioned images, some of
            :data:`~fiber_mm.shapes.caption_files.FORMATS`: ``'arrow'`` tables, tar ``'shards'``,
            Karpathy's ``'flickr30k'``, Flickr30k ``'entities'``, Visual Genome (``'vg'``); may be
            asked for later, and are then added to the folder.
        overwrite: replace a Shapes folder with other settings; any other folder is left alone.
        workers: processes; None takes one per core, for small jobs one.
        progress: show a progress bar.
    Returns: whether it had to be written.
    Raises:
        ValueError: on arguments outside their range.
        FileExistsError: if ``out`` holds something else.
        ModuleNotFoundError: if arrow tables are asked for without pyarrow.
    """
    _check_arguments(splits, seed, image_size)
    check_formats(formats)
    out = Path(out).absolute()
    settings = settings_of(splits, seed, image_size)
    if workers is None:
        workers = min(os.cpu_count() or 1, math.ceil(sum(splits.values()) / 100))
    with _lock(out):
        if _existing(out, settings, overwrite):
            return write_caption_files(out, list(splits), formats)
        partial = out.parent / f'.{out.name}.partial'
        shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
        try:
            with _one_opencv_thread():
                _write_folder(partial, splits, seed, image_size, workers, progress)
            write_caption_files(partial, list(splits), formats)
            _write_meta(partial, settings)
            if out.exists():
                shutil.rmtree(out)
            partial.rename(out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return True


def ensure_shapes(
    out: str | Path,
    splits: dict[str, int],
    seed: int = 0,
    image_size: int = 256,
    **options: Any,
) -> Path:
    """The folder, written first if it is not there; returns at once if it is complete.

    Arguments and errors are those of `generate_shapes`.
    """
    generate_shapes(out, splits, seed, image_size, **options)
    return Path(out)
