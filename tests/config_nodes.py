"""What tests look for in a config, and change there."""

from collections.abc import Iterator
from typing import Any


def nodes(value: Any) -> Iterator[dict]:
    """All dictionaries of a config, from the outside in."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from nodes(item)
