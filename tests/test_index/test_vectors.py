import sys

import pytest

from fiber_mm.index import ImageIndex
from fiber_mm.index.vectors import import_faiss

from .toy import build


def test_without_faiss(photos, model, tmp_path, monkeypatch):
    folder = tmp_path / 'index'
    monkeypatch.setitem(sys.modules, 'faiss', None)
    with pytest.raises(ModuleNotFoundError, match=r'faiss-cpu, .*"fiber_mm\[optional\]"'):
        import_faiss()
    with pytest.raises(ModuleNotFoundError, match='faiss-cpu'):
        build(folder, photos, model)
    assert not folder.exists()
    with pytest.raises(ModuleNotFoundError, match='faiss-cpu'):
        ImageIndex(folder, model)
