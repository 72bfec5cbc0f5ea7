"""Which images a folder holds, and in which state they are."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from .errors import ImageIndexError

SUFFIXES = (
    '.jpg', '.jpeg', '.jfif', '.png', '.webp', '.bmp', '.gif', '.tif', '.tiff', '.ppm', '.pgm',
)  # fmt: skip


class FileState(NamedTuple):
    """What tells whether a file has changed.

    Attributes:
        size: Bytes; -1 for a link that leads nowhere, or a file in a closed folder.
        mtime_ns: Time of the last change.
    """

    size: int
    mtime_ns: int


class FolderScan(NamedTuple):
    """What a folder holds.

    Attributes:
        images: Path below the folder, with ``/``, to state, in the order of the paths.
        others: Suffix to number of the files of other kinds, which are not looked at.
        unread: Folders that could not be read, and why.
    """

    images: dict[str, FileState]
    others: Counter[str]
    unread: list[str]


def scan_images(
    folder: str | Path, leave_out: str | Path | None = None, on_error: str = 'raise'
) -> FolderScan:
    """The images of a folder and of those in it.

    Hidden files and folders (".name") are left out; links are followed, each folder is visited
    once.

    Args:
        folder: Where to look.
        leave_out: A folder that is not looked into, that of the index.
        on_error: What to do about a folder below that cannot be read: ``raise``, or ``skip`` and
            list it.

    Raises:
        NotADirectoryError: if there is no such folder.
        ImageIndexError: if a folder cannot be read.
    """
    if not os.path.isdir(folder):
        raise NotADirectoryError(f'there is no image folder {folder}')
    images: dict[str, FileState] = {}
    others: Counter[str] = Counter()
    unread: list[str] = []

    def fail(error: OSError) -> None:
        reason = error.strerror or error
        if os.fspath(error.filename) == os.fspath(folder):
            raise ImageIndexError(
                f'the image folder {folder} cannot be read ({reason}): make it readable'
            ) from error
        if on_error == 'raise':
            raise ImageIndexError(
                f'the folder {error.filename} cannot be read ({reason}): make it readable, or '
                'leave out what cannot be read (--on-error skip)'
            ) from error
        unread.append(f'{error.filename} ({reason})')

    visited = set()
    if leave_out is not None and os.path.isdir(leave_out):
        visited.add(_identity(leave_out))
    for here, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith('.'))
        if _identity(here) in visited:
            folders.clear()
            continue
        visited.add(_identity(here))
        for name in files:
            if name.startswith('.'):
                continue
            path = os.path.join(here, name)
            if name.lower().endswith(SUFFIXES):
                images[Path(os.path.relpath(path, folder)).as_posix()] = file_state(path)
            else:
                others[os.path.splitext(name)[1].lower()] += 1
    return FolderScan(dict(sorted(images.items())), others, unread)


def kinds(others: Counter[str], shown: int = 5) -> str:
    """Numbers of files of other kinds in words, the most frequent ones first."""
    most = others.most_common(shown)
    rest = others.total() - sum(number for _, number in most)
    parts = [f'{suffix or "without suffix"} {number:,}' for suffix, number in most]
    return ', '.join([*parts, f'further kinds {rest:,}'] if rest else parts)


def file_state(path: str | Path) -> FileState:
    """State of one file; (-1, -1) if there is none, or none that can be read."""
    try:
        stat = os.stat(path)
    except OSError:
        return FileState(-1, -1)
    return FileState(stat.st_size, stat.st_mtime_ns)


def path_id(path: str) -> int:
    """The number under which an image is in the index: 63 bits that depend on its path alone.

    So an index has the same numbers whether it was made at once or grew.
    """
    digest = hashlib.blake2b(path.encode('utf-8', 'surrogateescape'), digest_size=8).digest()
    return int.from_bytes(digest, 'big') >> 1


def _identity(path: str | Path) -> tuple[int, int]:
    stat = os.stat(path)
    return stat.st_dev, stat.st_ino
