"""The parts that the contents of a request consist of, and where each protocol has them."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from router.capabilities import Dialect
from router.classification.messages import ARGUMENTS
from router.classification.nesting import Place, nested_with_ways

Part = Mapping[str, Any]
Kinds = Mapping[Dialect, Callable[[Part], bool]]


def parts_of(
    dialect: Dialect | None, body: Mapping[str, Any], kinds: Kinds
) -> Iterator[tuple[Part, Place]]:
    """Yield the parts of a request that its protocol's test of `kinds` holds for, and where."""
    match dialect:
        case Dialect.CHAT:
            yield from _of_chat(body, kinds[dialect])
        case Dialect.RESPONSES:
            yield from _nested(body, "input", kinds[dialect])
        case Dialect.MESSAGES:
            yield from _nested(body, "messages", kinds[dialect], skip=ARGUMENTS)


def _of_chat(
    body: Mapping[str, Any], is_one: Callable[[Part], bool]
) -> Iterator[tuple[Part, Place]]:
    messages = body.get("messages")
    for at, message in enumerate(messages if isinstance(messages, list) else ()):
        content = message.get("content") if isinstance(message, dict) else None
        for number, part in enumerate(content if isinstance(content, list) else ()):
            if isinstance(part, dict) and is_one(part):
                yield part, ("messages", at, "content", number)


def _nested(
    body: Mapping[str, Any], name: str, is_one: Callable[[Part], bool], *, skip: str | None = None
) -> Iterator[tuple[Part, Place]]:
    for part, way in nested_with_ways(body.get(name), name, skip=skip):
        if is_one(part):
            yield part, way.place
