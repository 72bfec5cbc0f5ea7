"""Which images a folder holds, and in which state they are."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

SUFFIXES = (
    '.jpg', '.jpeg', '.jfif', '.png', '.webp', '.bmp', '.gif', '.tif', '.tiff', '.ppm', '.pgm',
)  # fmt: skip


class FileState(NamedTuple):
    """What tells whether a file has changed.

    Attributes:
        size: Bytes; -1 for a link that leads nowhere.
        mtime_ns: Time of the last change.
    """

    size: int
    mtime_ns: int


def scan_images(folder: str | Path, leave_out: str | Path | None = None) -> dict[str, FileState]:
    """The images of a folder and of those in it.

    Hidden files and folders (".name") are left out; links are followed, each folder is visited
    once.

    Args:
        folder: Where to look.
        leave_out: A folder that is not looked into, that of the index.

    Returns:
        Path below ``folder``, with ``/``, to state, in the order of the paths.

    Raises:
        NotADirectoryError: if there is no such folder.
        OSError: if a folder cannot be read.
    """
    if not os.path.isdir(folder):
        raise NotADirectoryError(f'there is no image folder {folder}')

    def fail(error: OSError) -> None:
        raise error

    found, visited = {}, set()
    if leave_out is not None and os.path.isdir(leave_out):
        visited.add(_identity(leave_out))
    for here, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith('.'))
        if _identity(here) in visited:
            folders.clear()
            continue
        visited.add(_identity(here))
        for name in files:
            if not name.startswith('.') and name.lower().endswith(SUFFIXES):
                path = os.path.join(here, name)
                found[Path(os.path.relpath(path, folder)).as_posix()] = file_state(path)
    return dict(sorted(found.items()))


def file_state(path: str | Path) -> FileState:
    """State of one file; (-1, -1) if there is none."""
    try:
        stat = os.stat(path)
    except FileNotFoundError:
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
