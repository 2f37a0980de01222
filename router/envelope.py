"""An error as the protocol of its endpoint writes it, so that each one's SDK raises it."""

import json

from backends.wire import envelope
from router.capabilities import Dialect
from router.errors import Reply, SignalboxError


def error_body(error: SignalboxError, dialect: Dialect | None) -> bytes:
    """Return an error's body: OpenAI's, with the one field more that Anthropic's SDK reads."""
    if dialect is not Dialect.MESSAGES:
        return error.body()
    return json.dumps({"type": "error", **_told(error)}).encode()


def error_reply(error: SignalboxError, dialect: Dialect | None) -> Reply:
    """Return an error as a whole answer."""
    return Reply(error.status, tuple(error.headers()), error_body(error, dialect))


def error_frame(error: SignalboxError, dialect: Dialect | None, number: int = 0) -> bytes:
    """Return an error as one whole event; `number` is its place in a stream that counts them."""
    if dialect is Dialect.MESSAGES:
        return b"event: error\ndata: " + error_body(error, dialect) + b"\n\n"
    if dialect is not Dialect.RESPONSES:
        return error.frame()
    told = {
        "type": "error",
        "code": error.code,
        "message": error.message,
        "param": error.param,
        "sequence_number": number,
        # OpenAI's SDKs raise what holds this, and hand on an event of that type.
        **_told(error),
    }
    return b"event: error\ndata: " + json.dumps(told).encode() + b"\n\n"


def _told(error: SignalboxError) -> dict[str, object]:
    return envelope(error.code, error.message, error.param)
