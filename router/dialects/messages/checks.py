"""What a request is looked at with: shapes and known fields, and how it is told what is wrong.

A `path` names the place as an error does: `messages[0].content[1].source`.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NoReturn

from router.errors import Refused

_ADVICE = (
    "Leave it out, or name a model whose provider speaks this protocol itself "
    "(`dialects: [messages]`)."
)


def refuse(path: str, what: str) -> NoReturn:
    """Refuse what no chat completion can say, `what` being a sentence without its subject."""
    raise Refused("unsupported_parameter", f"{path} {what}. {_ADVICE}", param=path)


def malformed(path: str, what: str) -> NoReturn:
    """Refuse what is not of the protocol's shape; `what` says what it must be."""
    raise Refused("invalid_request", f"{path} must be {what}.", param=path)


def text_at(value: object, path: str) -> str:
    """Return a text."""
    if not isinstance(value, str):
        malformed(path, "a string")
    return value


def object_at(value: object, path: str) -> Mapping[str, Any]:
    """Return an object."""
    if not isinstance(value, dict):
        malformed(path, "an object")
    return value


def list_at(value: object, path: str) -> list[Any]:
    """Return a list."""
    if not isinstance(value, list):
        malformed(path, "a list")
    return value


def objects_at(value: object, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the objects of a list, each with its path."""
    for index, each in enumerate(list_at(value, path)):
        below = f"{path}[{index}]"
        yield below, object_at(each, below)


def kind_at(value: Mapping[str, Any], path: str) -> str:
    """Return the `type` of an object."""
    return text_at(value.get("type"), f"{path}.type")


def check_known(value: Mapping[str, Any], known: Collection[str], path: str) -> None:
    """Refuse a field that is not among those that are understood; one that is null says nothing."""
    for name, each in value.items():
        if name not in known and each is not None:
            refuse(f"{path}.{name}", "cannot be put as a chat completion")
