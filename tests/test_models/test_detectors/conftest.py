"""Fixtures of this folder."""

from tokenizer_fixture import tokenizer_dir  # noqa: F401
