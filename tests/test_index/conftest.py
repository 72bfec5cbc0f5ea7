"""Fixtures of this folder."""

import pytest
from tokenizer_fixture import tokenizer_dir  # noqa: F401

from .toy import build_model, draw_images


@pytest.fixture
def model(tokenizer_dir):  # noqa: F811
    return build_model(tokenizer_dir)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / 'photos'
    draw_images(folder, range(12))
    return folder
