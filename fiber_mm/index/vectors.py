"""The FAISS side: indexes of inner products under numbers of our own."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from fiber_mm.engine.checkpoint import write_atomic

from .errors import ImageIndexError

#: Lists of an inverted file that a search looks into, at most.
PROBES = 16


def import_faiss() -> ModuleType:
    """The optional faiss.

    Raises:
        ModuleNotFoundError: if it is not installed; says how to get it.
    """
    try:
        import faiss
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'an index of images needs faiss: pip install faiss-cpu, or '
            'pip install "fiber_mm[optional]"'
        ) from error
    return faiss


def empty_vectors(dim: int, factory: str = 'Flat') -> Any:
    """A new FAISS index of inner products.

    Args:
        dim: Width of the features.
        factory: String of ``faiss.index_factory``: ``Flat`` is exact, ``IVF1024,PQ64`` and so on
            are smaller and faster, and need training.

    Raises:
        ImageIndexError: if FAISS does not know it.
    """
    faiss = import_faiss()
    try:
        index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise ImageIndexError(
            f'faiss cannot make an index {factory!r} of {dim} numbers a feature: {_reason(error)}. '
            "'Flat' is exact and always works"
        ) from error
    if isinstance(index, faiss.IndexIDMap) or is_inverted(index):
        return index  # keeps numbers by itself
    return faiss.IndexIDMap2(index)


def is_exact(index: Any) -> bool:
    """Whether the index holds the features themselves, one after the other."""
    faiss = import_faiss()
    return isinstance(index, faiss.IndexIDMap2) and isinstance(
        faiss.downcast_index(index.index), faiss.IndexFlat
    )


def is_inverted(index: Any) -> bool:
    """Whether the index is an inverted file, maybe behind a transform."""
    return import_faiss().try_extract_index_ivf(index) is not None


def forgets(index: Any) -> bool:
    """Whether single features can be removed from the index."""
    try:
        index.remove_ids(np.empty(0, np.int64))
    except RuntimeError:
        return False
    return True


def train(index: Any, features: np.ndarray) -> None:
    """Train an index that needs it.

    Raises:
        ImageIndexError: if there are too few features for it.
    """
    if index.is_trained:
        return
    try:
        index.train(features)
    except RuntimeError as error:
        raise ImageIndexError(
            f'this kind of index cannot be trained on {len(features)} images: {_reason(error)}. '
            "Start again with fewer lists, or 'Flat'; nothing has to be embedded again"
        ) from error


def nearest(index: Any, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` greatest inner products with a query (D,).

    There are fewer if the index holds fewer, or is of an approximate kind and finds no more.

    Returns:
        Products (K,) and numbers (K,), products falling.
    """
    inverted = import_faiss().try_extract_index_ivf(index)
    if inverted is not None:
        inverted.nprobe = min(inverted.nlist, PROBES)
    scores, ids = index.search(query[None], min(k, index.ntotal))
    found = ids[0] >= 0  # FAISS fills up with -1
    return scores[0][found], ids[0][found]


def write_vectors(index: Any, path: Path) -> None:
    """Write a FAISS file at once; raises CheckpointError if the disk is full."""
    write_atomic(path, memoryview(import_faiss().serialize_index(index)))


def read_vectors(path: Path, count: int) -> Any:
    """Read a FAISS file.

    Args:
        path: The file.
        count: How many features it must hold.

    Raises:
        ImageIndexError: if it is missing, damaged, or holds another number of features.
    """
    faiss = import_faiss()
    if not path.is_file():
        raise ImageIndexError(f'{path} is missing: make the index anew (--overwrite)')
    try:
        index = faiss.read_index(str(path))
    except RuntimeError as error:
        raise ImageIndexError(
            f'{path} is damaged ({_reason(error)}): make the index anew (--overwrite)'
        ) from error
    if index.ntotal != count:
        raise ImageIndexError(
            f'{path} holds {index.ntotal} images, its list {count}: make the index anew '
            '(--overwrite)'
        )
    return index


def _reason(error: RuntimeError) -> str:
    """What FAISS says, without where in its code."""
    return str(error).rpartition('.cpp:')[2].partition(': ')[2] or str(error)
