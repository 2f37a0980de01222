"""The ASGI ends of a request: its bytes, the wishes in query and headers, a whole answer back."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from backends.wire import LOCAL_ONLY, PRIORITY, Priority
from router.body import AT_ONCE, Share
from router.errors import ClientGone, Refused, Reply

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Caller(NamedTuple):
    """Who sent a request, as far as its key tells: `priority` is that of who names none."""

    is_admin: bool = False
    priority: Priority | None = None


ANYBODY = Caller()
ADMIN = Caller(is_admin=True)
_PRIORITY = PRIORITY.encode()
_LOCAL_ONLY = LOCAL_ONLY.encode()
_BY_SERVICE_TIER = {"priority": Priority.HIGH, "flex": Priority.LOW}


def told(headers: Sequence[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Return a request's headers by lower-case name; one that came twice is joined by a comma.

    Nothing that must be alone is then taken for one of its two values, whichever that were.
    """
    found = dict(headers)
    if len(found) != len(headers):
        found = {}
        for name, value in headers:
            found[name] = b"%b, %b" % (found[name], value) if name in found else value
    return found


async def read_body(receive: Receive, size: int, share: Share) -> bytes:
    """Return the whole body, at most `size` bytes of it, held in `share`.

    How long it may take is for `receive` to say. Raises Refused `body_too_large` or `queue_full`,
    ClientGone when the client leaves.
    """
    message = await receive()
    body = _piece(message, size, share)
    if not message.get("more_body", False):
        return body
    pieces = [body]
    left = size - len(body)
    while message.get("more_body", False):
        message = await receive()
        pieces.append(_piece(message, left, share))
        left -= len(pieces[-1])
    if size - left <= AT_ONCE:
        return b"".join(pieces)
    # Which lets go of the interpreter where it is much.
    return await asyncio.to_thread(b"".join, pieces)


def _piece(message: Message, left: int, share: Share) -> bytes:
    """Return the bytes of one message, once they are known to be welcome."""
    if message["type"] == "http.disconnect":
        raise ClientGone
    data: bytes = message.get("body", b"")
    if len(data) > left:
        raise Refused("body_too_large", "The body is larger than limits.body_mb allows.")
    share.add(len(data))
    return data


def priority(scope: Scope, fields: Mapping[str, Any], default: Priority) -> Priority:
    """Return the request's priority: from the query, the header, the service tier, the key.

    `default` is that of a request that names none in any of these ways. Raises Refused
    `invalid_priority`, or `priority_not_allowed` for SYSTEM without the admin key.
    """
    query = scope.get("query_string", b"")
    wishes = parse_qs(query.decode("latin-1")).get("priority") if query else None
    header = scope["state"]["headers"].get(_PRIORITY)
    wish = wishes[-1] if wishes else header and header.decode("latin-1")
    return priority_of(wish, fields, default, scope["state"]["caller"])


def priority_of(
    wish: str | None, fields: Mapping[str, Any], default: Priority, caller: Caller
) -> Priority:
    """Return the priority that a wish in query or header stands for, else the service tier's.

    Raises Refused as `priority` does.
    """
    if wish is None:
        default = default if caller.priority is None else caller.priority
        tier = fields.get("service_tier")
        return _BY_SERVICE_TIER.get(tier, default) if isinstance(tier, str) else default
    try:
        wanted = Priority.parse(wish)
    except ValueError:
        names = ", ".join(f"{each.name.lower()} ({each.value})" for each in Priority)
        raise Refused(
            "invalid_priority",
            f"{wish[:50]!r} is no priority; there are {names}.",
            param="priority",
        ) from None
    if wanted is Priority.SYSTEM and not caller.is_admin:
        raise Refused("priority_not_allowed", "Priority system needs the admin key.")
    return wanted


def passed(scope: Scope, names: Sequence[bytes]) -> tuple[tuple[bytes, bytes], ...]:
    """Return those of the client's headers that go to the provider; Refused for an odd one."""
    if not names:
        return ()
    headers = scope["state"]["headers"]
    found = tuple((name, headers[name]) for name in names if name in headers)
    for name, value in found:
        # Neither an end of the line nor a letter that clients would spell in different ways.
        if not (value.isascii() and value.decode().isprintable()):
            raise Refused("invalid_request", f"The header {name.decode()} is not plain text.")
    return found


def wants_local_only(scope: Scope) -> bool:
    """Tell whether the client itself forbids remote models; any value but false, 0 or none does.

    Sent twice, one that forbids is enough.
    """
    header = scope["state"]["headers"].get(_LOCAL_ONLY)
    if header is None:
        return False
    return any(value.strip().lower() not in {b"false", b"0", b""} for value in header.split(b","))


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
