"""Fixtures of this folder."""

from shapes_fixture import shapes_root  # noqa: F401
from tokenizer_fixture import tokenizer_dir  # noqa: F401
