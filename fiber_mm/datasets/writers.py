"""Writing captioned images as arrow tables and tar shards, in the layouts that the readers read.

Files appear under their name only when they are complete.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

#: Bytes of images after which a batch of an arrow file is written: offsets have 32 bits.
_BATCH_BYTES = 1 << 26
INDEX = 'index.json'
_REMOVE = 'remove or rename it (shards are read without it, too)'


def import_pyarrow() -> ModuleType:
    """The optional pyarrow.

    Raises:
        ModuleNotFoundError: if it is not installed; says how to get it.
    """
    try:
        import pyarrow
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'arrow files need pyarrow: pip install pyarrow, or pip install "fiber_mm[optional]"'
        ) from error
    return pyarrow


def is_utf8(text: str) -> bool:
    """Whether a text can be written; the halves of a surrogate pair, which JSON allows, cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_utf8(name: str, texts: Sequence[str]) -> None:
    faulty = [text for text in texts if not is_utf8(text)]
    if faulty:
        raise ValueError(
            f'{name}: texts that are UTF-8 are wanted, got {faulty}; correct them or leave them out'
        )


class _Writer:
    """A context manager that finishes what is whole and removes what is not."""

    def close(self) -> None:
        raise NotImplementedError

    def discard(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.discard()
            return
        try:
            self.close()
        except BaseException:
            self.discard()
            raise


class ArrowWriter(_Writer):
    """One arrow IPC file in the layout of ViLT and METER: image, caption, image_id, split.

    Args:
        path: ``{name}.arrow``; replaced if it is there.
    """

    def __init__(self, path: str | Path) -> None:
        pa = import_pyarrow()
        self.path = Path(path)
        self.schema = pa.schema(
            [
                ('image', pa.binary()),
                ('caption', pa.list_(pa.string())),
                ('image_id', pa.string()),
                ('split', pa.string()),
            ]
        )
        self._pa = pa
        self._rows: list[tuple] = []
        self._bytes = 0
        self._partial = self.path.with_name(f'.{self.path.name}.partial')
        self._sink = pa.OSFile(str(self._partial), 'wb')
        self._file = pa.ipc.new_file(self._sink, self.schema)

    def add(self, image: bytes, captions: Sequence[str], image_id: str, split: str = '') -> None:
        """Write one image with its captions.

        Raises:
            ValueError: for a text that is no UTF-8.
        """
        _check_utf8(f'image {image_id!r}', [*captions, str(image_id), split])
        self._rows.append((image, list(captions), str(image_id), split))
        self._bytes += len(image)
        if self._bytes >= _BATCH_BYTES:
            self._flush()

    def _flush(self) -> None:
        columns = [list(column) for column in zip(*self._rows)]
        if columns:
            self._file.write_batch(self._pa.record_batch(columns, schema=self.schema))
        self._rows, self._bytes = [], 0

    def close(self) -> None:
        """Finish the file."""
        self._flush()
        self._file.close()
        self._sink.close()
        os.replace(self._partial, self.path)

    def discard(self) -> None:
        """Leave nothing behind."""
        with contextlib.suppress(OSError):  # a full disk
            self._sink.close()
        self._partial.unlink(missing_ok=True)


class ShardWriter(_Writer):
    """Tar shards of WebDataset: ``KEY.jpg``, ``KEY.txt``, ``KEY.json``, and an index.

    ``KEY.txt`` holds the first caption, ``KEY.json`` all (``captions``) and the ``image_id``.
    ``index.json`` has the number of samples of each shard, as WebDataset's ``wids`` has it, and
    that of pairs (``npairs``).

    Args:
        folder: Where the shards go; made if it is not there.
        prefix: Shards are named ``{prefix}-{number:06d}.tar``.
        per_shard: Images per shard.
    """

    def __init__(self, folder: str | Path, prefix: str = 'shard', per_shard: int = 1000) -> None:
        if per_shard < 1:
            raise ValueError(f'per_shard must be at least 1, got {per_shard}')
        self.folder, self.prefix, self.per_shard = Path(folder), prefix, per_shard
        read_index(self.folder / INDEX)  # now rather than when all is written
        self.folder.mkdir(parents=True, exist_ok=True)
        self.shards: list[dict[str, Any]] = []
        self._tar: tarfile.TarFile | None = None
        self._count = self._pairs = 0

    @property
    def _name(self) -> str:
        return f'{self.prefix}-{len(self.shards):06d}.tar'

    @property
    def _partial(self) -> Path:
        return self.folder / f'.{self._name}.partial'

    def add(
        self, key: str, image: bytes, captions: Sequence[str], image_id: Any, suffix: str = 'jpg'
    ) -> None:
        """Write one image with its captions.

        Args:
            key: Distinct within the shards, without dots and blanks.
            image: The image file.
            captions: At least one, none empty: the index counts on it.
            image_id: Kept in the JSON.
            suffix: Kind of the image file.

        Raises:
            ValueError: for a faulty key, and captions that are empty or no UTF-8.
        """
        if '.' in key or key != key.strip():
            raise ValueError(f'a key has no dots and no blanks at its ends, got {key!r}')
        empty = [caption for caption in captions if not caption.strip()]
        if empty or not captions:
            raise ValueError(
                f'{key}: captions that are not empty are wanted, got {list(captions)}; leave the '
                'others, or the image, out'
            )
        _check_utf8(key, [*captions, str(image_id)])
        if self._tar is None:
            self._tar = tarfile.TarFile(self._partial, 'w', format=tarfile.USTAR_FORMAT)
        about = json.dumps(dict(captions=list(captions), image_id=image_id), ensure_ascii=False)
        for end, content in (
            (suffix, image),
            ('txt', captions[0].encode()),
            ('json', about.encode()),
        ):
            member = tarfile.TarInfo(f'{key}.{end}')
            member.size = len(content)
            self._tar.addfile(member, io.BytesIO(content))
        self._count += 1
        self._pairs += len(set(captions))  # readers take each once
        if self._count == self.per_shard:
            self._finish()

    def _finish(self) -> None:
        if self._tar is None:
            return
        self._tar.close()
        name = self._name
        os.replace(self._partial, self.folder / name)
        size = (self.folder / name).stat().st_size
        self.shards.append(dict(url=name, nsamples=self._count, npairs=self._pairs, filesize=size))
        self._tar, self._count, self._pairs = None, 0, 0

    def close(self) -> None:
        """Finish the last shard and write the index."""
        self._finish()
        write_index(self.folder, self.shards)

    def discard(self) -> None:
        """Remove the unfinished shard; finished ones stay, without an index."""
        if self._tar is not None:
            with contextlib.suppress(OSError):  # a full disk
                self._tar.close()
            self._partial.unlink(missing_ok=True)


def write_index(folder: Path, shards: list[dict[str, Any]]) -> None:
    """Add shards to the index of a folder.

    Entries of the same names are replaced, those of shards that are gone are dropped.
    """
    path = folder / INDEX
    names = {shard['url'] for shard in shards}
    kept = [s for s in read_index(path) if s['url'] not in names and (folder / s['url']).is_file()]
    rows = sorted(kept + shards, key=lambda s: s['url'])
    content = {'__kind__': 'wids-shard-index-v1', 'wids_version': 1, 'shardlist': rows}
    partial = folder / f'.{INDEX}.partial'
    try:
        partial.write_text(json.dumps(content, indent=1) + '\n')
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def read_index(path: str | Path) -> list[dict[str, Any]]:
    """Rows of an index of shards: ``url``, ``nsamples``, maybe ``npairs``; none without a file.

    Raises:
        ValueError: if the file is something else, or cut.
    """
    if not Path(path).is_file():
        return []
    try:
        content = json.loads(Path(path).read_bytes())
    except ValueError as error:
        raise ValueError(f'{path} is no complete JSON ({error}); {_REMOVE}') from error
    rows = content.get('shardlist') if isinstance(content, dict) else None
    if not isinstance(rows, list):
        raise ValueError(
            f"{path} is no index of shards, which is an object with the list 'shardlist'; {_REMOVE}"
        )
    for row in rows:
        if not (
            isinstance(row, dict)
            and isinstance(row.get('url'), str)
            and isinstance(row.get('nsamples'), int)
            and isinstance(row.get('npairs', 0), int)
        ):
            raise ValueError(
                f"{path} lists the shard {row}: 'url' (a name) and 'nsamples' (a number) are "
                f"wanted, 'npairs' is a number if it is there; {_REMOVE}"
            )
    return rows
