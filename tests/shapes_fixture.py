"""A few Shapes images with all their annotation files."""

import pytest


@pytest.fixture(scope='session')
def shapes_root(tmp_path_factory):
    from fiber_mm.shapes.generate import generate_shapes

    root = tmp_path_factory.mktemp('data') / 'shapes'
    generate_shapes(root, {'train': 12, 'val': 8}, image_size=128, workers=1, progress=False)
    return root
