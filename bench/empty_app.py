"""An application that does nothing: what it costs is the server's and the system's, not its own.

No proxy in Python behind this server can be faster on the machine at hand, so its figures tell how
much of the router's are the router's.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from bench import exchange

Message = MutableMapping[str, Any]
_ANSWER = exchange.answer()
_HEADERS = [
    (b"content-type", b"application/json"),
    (b"content-length", b"%d" % len(_ANSWER)),
]


async def app(
    scope: Message,
    receive: Callable[[], Awaitable[Message]],
    send: Callable[[Message], Awaitable[None]],
) -> None:
    """Read the request and answer it as the upstream would."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": _ANSWER})
