"""How a message is refused that no chat completion can say."""

from collections.abc import Collection, Mapping
from typing import Any, NoReturn

from router.dialects.checks import clipped
from router.errors import Refused

_ADVICE = (
    "Leave it out, or name a model whose provider speaks this protocol itself "
    "(`dialects: [messages]`)."
)


def refuse(path: str, what: str) -> NoReturn:
    """Refuse what no chat completion can say, `what` being a sentence without its subject."""
    raise Refused("unsupported_parameter", f"{path} {what}. {_ADVICE}", param=path)


def check_known(value: Mapping[str, Any], known: Collection[str], path: str) -> None:
    """Refuse a field that is not among those that are understood; one that is null says nothing."""
    for name, each in value.items():
        if name not in known and each is not None:
            refuse(f"{path}.{clipped(name)}", "cannot be put as a chat completion")
