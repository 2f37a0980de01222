"""The objects within a value, at any depth, and the ways to them.

By a list of what is left to see: no input decides how deep we recurse.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

# The way to a value within a body: keys and positions.
Place = tuple[str | int, ...]


def name_of(place: Place) -> str:
    """Return a place as errors name it."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in place)
    return "".join(steps).removeprefix(".")


class Way(msgspec.Struct, frozen=True):
    """The last step to a value, and the way to what holds it."""

    step: str | int
    before: "Way | None" = None

    @property
    def place(self) -> Place:
        """The whole way, put together only where it is wanted."""
        steps: list[str | int] = []
        last: Way | None = self
        while last is not None:
            steps.append(last.step)
            last = last.before
        return tuple(reversed(steps))


def nested_objects(value: object, *, skip: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield every object in a value, itself too, but nothing below a key called `skip`."""
    left = [value]
    while left:
        each = left.pop()
        if isinstance(each, dict):
            yield each
            left += [below for key, below in each.items() if key != skip]
        elif isinstance(each, list):
            left += each


def nested_with_ways(
    value: object, name: str, *, skip: str | None = None
) -> Iterator[tuple[dict[str, Any], Way]]:
    """Yield the same objects, and the way to each from the body's field `name` on."""
    left: list[tuple[object, Way]] = [(value, Way(name))]
    while left:
        each, way = left.pop()
        if isinstance(each, dict):
            yield each, way
            left += [(below, Way(key, way)) for key, below in each.items() if key != skip]
        elif isinstance(each, list):
            left += [(below, Way(at, way)) for at, below in enumerate(each)]
