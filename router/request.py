"""The ASGI ends of a request: its bytes, the wishes in query and headers, a whole answer back."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any
from urllib.parse import parse_qs

from backends.wire import LOCAL_ONLY, PRIORITY, Priority
from router.errors import ClientGone, Refused, Reply

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_BY_SERVICE_TIER = {"priority": Priority.HIGH, "flex": Priority.LOW}


def header(scope: Scope, name: str) -> str | None:
    """Return a request header by its lower-case name, the last one when it came twice."""
    wanted = name.encode()
    values: Iterable[tuple[bytes, bytes]] = scope["headers"]
    found = None
    for key, value in values:
        if key == wanted:
            found = value.decode("latin-1")
    return found


async def read_body(receive: Receive, size: int, body_s: float) -> bytes:
    """Return the whole body, at most `size` bytes, that arrives within `body_s` seconds.

    Raises Refused `body_too_large` or `request_timeout`, ClientGone when the client leaves.
    """
    pieces: list[bytes] = []
    total, more = 0, True
    try:
        async with asyncio.timeout(body_s):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                data = message.get("body", b"")
                total += len(data)
                if total > size:
                    raise Refused("body_too_large", f"The body is larger than {size} bytes.")
                pieces.append(data)
                more = message.get("more_body", False)
    except TimeoutError:
        raise Refused("request_timeout", f"The body did not arrive within {body_s:g} s.") from None
    return b"".join(pieces)


def priority(
    scope: Scope, fields: Mapping[str, Any], default: Priority, *, is_admin: bool
) -> Priority:
    """Return the request's priority: from the query, the header, the service tier, the default.

    Raises Refused `invalid_priority`, or `priority_not_allowed` for SYSTEM without the admin key.
    """
    query = scope.get("query_string", b"")
    wishes = parse_qs(query.decode("latin-1")).get("priority") if query else None
    told = wishes[-1] if wishes else header(scope, PRIORITY)
    if told is None:
        tier = fields.get("service_tier")
        return _BY_SERVICE_TIER.get(tier, default) if isinstance(tier, str) else default
    try:
        wanted = Priority.parse(told)
    except ValueError:
        names = ", ".join(f"{each.name.lower()} ({each.value})" for each in Priority)
        raise Refused(
            "invalid_priority",
            f"{told[:50]!r} is no priority; there are {names}.",
            param="priority",
        ) from None
    if wanted is Priority.SYSTEM and not is_admin:
        raise Refused("priority_not_allowed", "Priority system needs the admin key.")
    return wanted


def wants_local_only(scope: Scope) -> bool:
    """Tell whether the client itself forbids remote models; any value but false, 0 or none does.

    Sent twice, one that forbids is enough.
    """
    wanted = LOCAL_ONLY.encode()
    told = (value for key, value in scope["headers"] if key == wanted)
    return any(value.strip().lower() not in {b"false", b"0", b""} for value in told)


async def send_reply(send: Send, reply: Reply, more: tuple[tuple[bytes, bytes], ...] = ()) -> None:
    """Send a whole answer, with further headers."""
    length = (b"content-length", b"%d" % len(reply.body))
    await send(
        {
            "type": "http.response.start",
            "status": reply.status,
            "headers": [*reply.headers, *more, length],
        }
    )
    await send({"type": "http.response.body", "body": reply.body, "more_body": False})
