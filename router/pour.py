"""The last leg of an answer that is bytes: it flows to the client as it comes.

Nothing in it can say that it broke, so that a broken one ends with the connection broken off.
"""

from collections.abc import Awaitable, Iterable

from router.answer import OpenBytes
from router.deadline import Deadline, Deadlines, Sweeper
from router.errors import RouteFailed, StreamFailed
from router.pace import Pace, truncated
from router.request import Send


async def pour(
    opened: OpenBytes,
    send: Send,
    headers: Iterable[tuple[bytes, bytes]],
    deadlines: Deadlines,
    sweeper: Sweeper,
) -> StreamFailed | None:
    """Send the bytes to the client as they arrive; return what broke them off, or None."""
    await send({"type": "http.response.start", "status": 200, "headers": list(headers)})
    try:
        with Deadline(sweeper) as deadline:
            sink = ByteSink(send, deadlines, deadline)
            await sink.take(opened.first)
            await opened.answer.flow(sink)
    except RouteFailed:
        return truncated()
    except StreamFailed as error:
        # The frames that it went through hold it too.
        return error.with_traceback(None)
    await send({"type": "http.response.body", "body": b"", "more_body": False})
    return None


class ByteSink(Pace):
    """Takes a provider's bytes and passes them on; each piece is a sign of life."""

    def __init__(self, send: Send, deadlines: Deadlines, deadline: Deadline) -> None:
        super().__init__(deadlines, deadline)
        self._send = send

    def take(self, data: bytes) -> Awaitable[None]:
        """Pass a piece on; return NOTHING, or the wait for a slow client."""
        self.expect_more()
        return self.patient(
            self._send({"type": "http.response.body", "body": data, "more_body": True})
        )
