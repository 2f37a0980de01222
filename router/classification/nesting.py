"""The objects within a value, at any depth."""

from collections.abc import Iterator
from typing import Any


def nested_objects(value: object, *, skip: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield every object in a value, itself too, but nothing below a key called `skip`.

    By a list of what is left to see: no input decides how deep we recurse.
    """
    left = [value]
    while left:
        each = left.pop()
        if isinstance(each, dict):
            yield each
            left += [below for key, below in each.items() if key != skip]
        elif isinstance(each, list):
            left += each
