"""What a request is looked at with: its shapes, and how it is told that one is another.

A `path` names the place as an error does: `messages[0].content[1].source`.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from router.errors import Refused

# The beginning of a name that is the client's own, as errors repeat it.
_SHOWN: Final = 80


def clipped(name: str) -> str:
    """Return a name of the client's, as long as an error may repeat it."""
    return name if len(name) <= _SHOWN else f"{name[:_SHOWN]}…"


def malformed(path: str, what: str) -> Refused:
    """Return the refusal of what is not of the protocol's shape; `what` says what it must be."""
    return Refused("invalid_request", f"{path} must be {what}.", param=path)


def unless_null(value: Any, otherwise: Any) -> Any:
    """Return a value, or `otherwise` for null: only null is as good as nothing."""
    return otherwise if value is None else value


def text_at(value: object, path: str) -> str:
    """Return a text."""
    if not isinstance(value, str):
        raise malformed(path, "a string")
    return value


def object_at(value: object, path: str) -> Mapping[str, Any]:
    """Return an object."""
    if not isinstance(value, dict):
        raise malformed(path, "an object")
    return value


def list_at(value: object, path: str) -> list[Any]:
    """Return a list."""
    if not isinstance(value, list):
        raise malformed(path, "a list")
    return value


def objects_at(value: object, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the objects of a list, each with its path."""
    for index, each in enumerate(list_at(value, path)):
        below = f"{path}[{index}]"
        yield below, object_at(each, below)


def kind_at(value: Mapping[str, Any], path: str) -> str:
    """Return the `type` of an object."""
    return text_at(value.get("type"), f"{path}.type")
