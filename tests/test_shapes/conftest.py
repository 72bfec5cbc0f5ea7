"""One small Shapes folder for all tests here."""

import json
from pathlib import Path

import pytest

from fiber_mm.shapes import generate_shapes
from fiber_mm.shapes.scene import Scene, scene_from_dict

SPLITS = {'train': 24, 'val': 16}
SEED = 7


@pytest.fixture(scope='session')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp('shapes') / 'data'
    generate_shapes(out, SPLITS, SEED, workers=1, progress=False)
    return out


@pytest.fixture(scope='session')
def rows(folder: Path) -> dict[str, list[dict]]:
    """Lines of scenes_{split}.jsonl."""
    out = {}
    for split in SPLITS:
        text = (folder / f'scenes_{split}.jsonl').read_text()
        out[split] = [json.loads(line) for line in text.splitlines()]
    return out


@pytest.fixture(scope='session')
def scenes(rows: dict[str, list[dict]]) -> list[Scene]:
    """Scenes of all splits, read back from the file."""
    return [scene_from_dict(row) for split in SPLITS for row in rows[split]]
