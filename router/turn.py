"""One request and its answer on a client's connection: the two ends that ASGI speaks of."""

import asyncio
import http
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from uvicorn.server import ServerState

from backends.wire import REQUEST_ID
from router.errors import SignalboxError
from router.fields import field_lines
from router.guard import App
from router.outbox import Writer
from router.request import Message, Scope
from router.waiting import NOTHING

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_WITHOUT_BODY = frozenset({204, 304})
_STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode("ascii")
    for status in http.HTTPStatus
}


def head_of(status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the head of an answer as bytes.

    Raises ValueError when a header would break out of its line.
    """
    line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
    return b"%b%b\r\n" % (line, field_lines(headers))


def refusal(error: SignalboxError) -> bytes:
    """Return an error as a whole answer that ends its connection; no request was begun for it."""
    reply = error.reply()
    headers = [
        *reply.headers,
        (REQUEST_ID.encode(), f"req-{secrets.token_hex(12)}".encode()),
        (b"content-length", b"%d" % len(reply.body)),
        (b"connection", b"close"),
    ]
    return head_of(reply.status, headers) + reply.body


class ClientConnection(Protocol):
    """What a turn needs of the connection that it came over."""

    loop: asyncio.AbstractEventLoop
    app: App
    server_state: ServerState
    writer: Writer

    def resume(self) -> None:
        """Read on."""
        ...

    def over(self, turn: "Turn", *, clean: bool) -> None:
        """Go on after an answer, or, where it is not whole, break it off."""
        ...


class Turn:
    """One request: `receive` and `send` are its ASGI ends.

    `scope["state"]["turn"]` is this object: work for a client that may leave asks it to be told.
    """

    __slots__ = (
        "_begun",
        "_bodiless",
        "_chunked",
        "_complete",
        "_connection",
        "_failure",
        "_head",
        "_more",
        "_on_gone",
        "_pieces",
        "_scope",
        "_task",
        "_told_end",
        "_waiter",
        "gone",
        "held",
        "keep_alive",
        "loop",
        "timed",
    )

    def __init__(self, connection: ClientConnection, scope: Scope, *, keep_alive: bool) -> None:
        self._connection = connection
        self.loop = connection.loop
        self._scope = scope
        scope["state"]["turn"] = self
        self.keep_alive = keep_alive
        self.timed = False
        # The request.
        self._pieces: deque[bytes] = deque()
        self.held = 0
        self._more = True
        self._told_end = False
        self._failure: SignalboxError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.gone = False
        self._on_gone: Callable[[], None] | None = None
        # The answer.
        self._head: bytes | None = None
        self._begun = False
        self._chunked = False
        self._bodiless = False
        self._complete = False

    def __repr__(self) -> str:
        return f"<Turn {self._scope['method']} begun={self._begun} complete={self._complete}>"

    def start(self) -> None:
        """Begin to answer, in a task of its own."""
        connection = self._connection
        # Owned by the server, which waits for it when it stops.
        self._task = connection.loop.create_task(self._run())
        connection.server_state.tasks.add(self._task)

    async def _run(self) -> None:
        connection = self._connection
        try:
            await connection.app(self._scope, self.receive, self.send)
        finally:
            # The last thing that the task does; a callback would cost the loop one more turn.
            connection.server_state.tasks.discard(self._task)
            # It holds us, and we hold it: nothing is left to the collector.
            self._scope["state"].clear()
            connection.over(self, clean=self._complete)

    # What the connection says

    def feed(self, data: bytes) -> None:
        """Take a piece of the body."""
        self._pieces.append(data)
        self.held += len(data)
        self._wake()

    def complete(self) -> None:
        """Take note that the body is whole."""
        self._more = False
        self._wake()

    def fail(self, failure: SignalboxError) -> None:
        """Take note that the body will never be whole; whoever reads it is told why."""
        self._failure = failure
        self._wake()

    def leave(self) -> None:
        """Take note that the client has gone."""
        self.gone = True
        self._wake()
        if self._on_gone is not None:
            self._on_gone()

    def when_gone(self, tell: Callable[[], None] | None) -> None:
        """Call `tell` once when the client leaves; None to be left alone."""
        self._on_gone = tell

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # What the application says

    async def receive(self) -> Message:
        """Return what came of the body, or that the client has gone; raises what it failed by."""
        if self._more and not self._pieces:
            self._continue()
        while not self._pieces and (self._more or self._told_end):
            if self.gone:
                return {"type": "http.disconnect"}
            if self._failure is not None:
                raise self._failure
            self._waiter = self._connection.loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self.gone:
            return {"type": "http.disconnect"}
        # One at a time: whoever wants them joined joins them once.
        body = self._pieces.popleft() if self._pieces else b""
        self.held -= len(body)
        self._told_end = not self._more and not self._pieces
        if self._more and not self._pieces:
            self._connection.resume()
        return {"type": "http.request", "body": body, "more_body": not self._told_end}

    def _continue(self) -> None:
        """Ask for the body where the client waits to be asked."""
        if self._begun:
            return
        expects = self._scope["state"]["headers"].pop(b"expect", b"")
        if expects.lower() == b"100-continue":
            self._connection.writer.write(_CONTINUE)

    def send(self, message: Message) -> Awaitable[None]:
        """Take the head, and then the pieces of the answer; awaiting waits for the client to read.

        The head goes out together with the first piece.
        """
        if self._complete or self.gone:
            return NOTHING
        if message["type"] == "http.response.start":
            self._begin(message)
            return NOTHING
        body: bytes = message.get("body", b"")
        self._write(body, more=message.get("more_body", False))
        return self._connection.writer.drained()

    def _begin(self, message: Message) -> None:
        if self._begun:
            raise RuntimeError("the answer has begun already")
        status: int = message["status"]
        headers: list[tuple[bytes, bytes]] = [
            *self._connection.server_state.default_headers,
            *message["headers"],
        ]
        names = dict(headers)
        self._bodiless = self._scope["method"] == "HEAD" or status in _WITHOUT_BODY
        if b"content-length" not in names and not self._bodiless:
            if self._scope["http_version"] == "1.1":
                self._chunked = True
                headers.append((b"transfer-encoding", b"chunked"))
            else:
                self.keep_alive = False
        if names.get(b"connection") == b"close":
            self.keep_alive = False
        elif not self.keep_alive or self._more:
            self.keep_alive = False
            headers.append((b"connection", b"close"))
        self._head = head_of(status, headers)
        self._begun = True

    def _write(self, body: bytes, *, more: bool) -> None:
        if not self._begun:
            raise RuntimeError("the answer has not begun")
        parts = []
        if self._head is not None:
            parts.append(self._head)
            self._head = None
        if self._chunked:
            if body:
                parts.append(b"%x\r\n%b\r\n" % (len(body), body))
            if not more:
                parts.append(b"0\r\n\r\n")
        elif body and not self._bodiless:
            parts.append(body)
        if parts:
            self._connection.writer.write(parts[0] if len(parts) == 1 else b"".join(parts))
        if not more:
            self._complete = True
            self._connection.over(self, clean=True)
