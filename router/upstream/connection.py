"""One connection to a provider: HTTP/1.1 as llhttp reads it, one exchange after another.

Everything that a provider may do wrong ends the connection; what its client is told is decided by
how far the answer had come.
"""

import asyncio
import select
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import cast

import httptools

from router.errors import RouteFailed
from router.outbox import Outbox
from router.upstream import Headers, Sink
from router.waiting import NOTHING

# A provider's answer head may take this much, interim answers included.
_MAX_HEAD = 64 << 10
_MAX_INTERIM = 16
# What is held of a body that nobody reads; then the provider has to wait. One read more, of up to
# 250 KiB with uvloop, may be on top of it.
_HIGH_WATER = 64 << 10
# Up to this many bytes of a request go out in one write with its head.
_JOINED = 256 << 10
_INTERIM = range(100, 200)
_SWITCHING = 101


class PlainAnswer:
    """The head of an answer and its body in pieces, as they come in over a connection."""

    __slots__ = (
        "_connection",
        "_failure",
        "_held",
        "_pieces",
        "_sink",
        "_slow",
        "_waiter",
        "begun",
        "complete",
        "headers",
        "status",
    )

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self._pieces: list[bytes] = []
        self._held = 0
        self.begun = False
        self.complete = False
        # How to make it: an error that is kept would hold whoever reads, and be held by it.
        self._failure: Callable[[], RouteFailed] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._sink: Sink | None = None
        self._slow: Awaitable[None] = NOTHING

    def __repr__(self) -> str:
        return f"<PlainAnswer {self.status} complete={self.complete} held={self._held}>"

    async def head(self) -> None:
        """Return when status and headers are there; raises RouteFailed."""
        while not self.begun:
            self._raise_failure()
            await self._more()

    async def read(self) -> bytes:
        """Return all of the body that has come since, waiting for some; empty at its end."""
        while not self._pieces:
            if self.complete:
                return b""
            self._raise_failure()
            await self._more()
        return self._taken()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure()

    def _taken(self) -> bytes:
        """Return all that is held, and let more of it come."""
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._held = 0
        self._connection.resume()
        return data

    async def flow(self, sink: Sink) -> None:
        """Hand the rest of the body to `sink` as it comes, until its end or until that is over.

        While the sink keeps up, it is served where the bytes come in, and this task sleeps on.
        """
        self._sink = sink
        try:
            while not sink.over:
                if self._pieces:
                    await sink.take(self._taken())
                elif self.complete:
                    return
                else:
                    self._raise_failure()
                    await self._more()
                    await self._slowness()
        finally:
            self._sink = None

    def _slowness(self) -> Awaitable[None]:
        """Return what a sink that was served has still to wait for."""
        slow, self._slow = self._slow, NOTHING
        return slow

    async def _more(self) -> None:
        self._waiter = waiter = self._connection.loop.create_future()
        try:
            await waiter
        finally:
            self._waiter = None

    def wake(self) -> None:
        """Tell the reader that there is something new, or serve its sink in its stead."""
        waiter, sink = self._waiter, self._sink
        if waiter is None or waiter.done():
            return
        if sink is not None and self._pieces:
            self._slow = sink.take(self._taken())
            if not (self._slow is not NOTHING or sink.over or self.complete or self._failure):
                return
        waiter.set_result(None)

    def add(self, data: bytes) -> int:
        """Append to the body; return how much of it is held."""
        self._pieces.append(data)
        self._held += len(data)
        return self._held

    def fail(self, failure: Callable[[], RouteFailed]) -> None:
        """Let the reader have what came, and then this; what comes of it later is not told."""
        if self._failure is None:
            self._failure = failure
        self.wake()


class NotSent(RouteFailed):
    """The connection came to its end before anything was sent over it: another one will do."""

    def __init__(self, provider: str) -> None:
        super().__init__("upstream_reset", f"{provider} closed the connection before it was asked.")


class Connection(asyncio.Protocol):
    """A connection to a provider, used again once an answer is over and nothing is amiss."""

    def __init__(self, provider: str, outbox: Outbox) -> None:
        self.loop = asyncio.get_running_loop()
        self._outbox = outbox
        # A request that was not sent yet: its head and its body.
        self._unsent: tuple[bytes, bytes] | None = None
        self._provider = provider
        self._parser = httptools.HttpResponseParser(self)
        self._answer: PlainAnswer | None = None
        self._transport: asyncio.Transport | None = None
        self._head_bytes = 0
        self._interim = 0
        self._keep_alive = False
        self._to_eof = False
        self._paused = False
        self._poll: select.poll | None = None
        self.idle_since_s = 0.0

    def __repr__(self) -> str:
        return f"<Connection {self._provider} {'idle' if self._answer is None else 'busy'}>"

    def ask(self, head: bytes, body: bytes) -> PlainAnswer:
        """Send a request soon and return its answer, which has still to come."""
        self._answer = answer = PlainAnswer(self)
        self._head_bytes = self._interim = 0
        self._keep_alive = self._to_eof = False
        if self.idle_since_s:
            # With those of others, and looked at once more before: who kept it may have closed it.
            self._unsent = head, body
            self._outbox.add(self)
        else:
            self._send(head, body)
        return answer

    def flush(self) -> None:
        """Send the request, unless the connection has seen its end meanwhile."""
        unsent, self._unsent = self._unsent, None
        answer, transport = self._answer, self._transport
        # Whoever asked may have gone.
        if unsent is None or answer is None:
            return
        if transport is None or transport.is_closing() or self._has_news():
            answer.fail(partial(NotSent, self._provider))
            self.abort()
        else:
            self._send(*unsent)

    def _send(self, head: bytes, body: bytes) -> None:
        transport = self._open_transport()
        if len(body) <= _JOINED:
            transport.write(head + body)
        else:
            transport.writelines((head, body))

    def _open_transport(self) -> asyncio.Transport:
        if self._transport is None:
            raise RuntimeError("the connection is closed")
        return self._transport

    @property
    def is_open(self) -> bool:
        """Whether the connection stands as far as we know."""
        return self._transport is not None and not self._transport.is_closing()

    def meets_itself(self) -> bool:
        """Tell a connection that a closed port of ours made with itself."""
        transport = self._open_transport()
        ends = transport.get_extra_info("sockname"), transport.get_extra_info("peername")
        return bool(ends[0] == ends[1])

    def _has_news(self) -> bool:
        """Tell whether the kernel holds something that the event loop has not had a turn to see.

        Before a request that is the connection's end, or bytes that nobody asked for.
        """
        if self._poll is None:
            # Made once: asking again costs a microsecond less.
            self._poll = select.poll()
            number = self._open_transport().get_extra_info("socket").fileno()
            self._poll.register(number, select.POLLIN)
        return bool(self._poll.poll(0))

    def release(self) -> bool:
        """End the exchange; return whether the connection can take another one."""
        answer, self._answer, self._unsent = self._answer, None, None
        transport = self._transport
        if (
            transport is not None
            and answer is not None
            and answer.complete
            and self._keep_alive
            and not transport.is_closing()
            # A provider that answers before it has read everything would take the rest for more.
            and transport.get_write_buffer_size() == 0
        ):
            self.resume()
            self.idle_since_s = time.monotonic()
            return True
        self.abort()
        return False

    def abort(self) -> None:
        """Close at once; what was not sent is dropped."""
        if self._transport is not None:
            self._transport.abort()

    def resume(self) -> None:
        """Read on, where reading had stopped for want of a reader."""
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        # uvloop's transports are of no class of asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Parse what came and wake the reader once."""
        answer = self._answer
        if self._unsent is not None or answer is None or answer.complete:
            # Nobody asked: whatever this is, it must not become the next answer.
            self._keep_alive = False
            self.abort()
            return
        if not answer.begun:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._break("sent something that is not HTTP")
            return
        if not answer.begun and self._head_bytes > _MAX_HEAD:
            self._break(f"sent a head of more than {_MAX_HEAD >> 10} KiB")
            return
        answer.wake()

    def _break(self, what: str) -> None:
        answer = self._answer
        self._keep_alive = False
        if answer is not None:
            # An answer that came to its end is whole all the same; its reader has to be woken.
            answer.fail(partial(_failed, "upstream_protocol_error", f"{self._provider} {what}."))
        self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """End what was going on: an answer that ends with the connection ends well."""
        self._transport = None
        answer = self._answer
        if answer is None or answer.complete:
            return
        if self._unsent is not None:
            answer.fail(partial(NotSent, self._provider))
            return
        if self._to_eof and exc is None:
            answer.complete = True
            answer.wake()
            return
        when = "within its answer" if answer.begun else "before it answered"
        told = f"{self._provider} closed the connection {when}."
        answer.fail(partial(_failed, "upstream_reset", told))

    # httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header of the answer, none of an interim one's or a trailer."""
        answer = self._answer
        if answer is not None and not answer.begun:
            # The parser leaves the blanks at a value's end, which are no part of it.
            answer.headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        """Begin the answer, unless it is an interim one."""
        answer = self._answer
        if answer is None or answer.complete:
            raise _Refused
        status: int = self._parser.get_status_code()
        if status in _INTERIM:
            self._interim += 1
            if self._interim > _MAX_INTERIM or status == _SWITCHING:
                raise _Refused
            answer.headers = []
            return
        # A long head may come in one piece with its end, a short one with much of its body.
        if self._head_bytes > _MAX_HEAD and _size(answer.headers) > _MAX_HEAD:
            raise _Refused
        answer.status = status
        answer.begun = True
        names = dict(answer.headers)
        self._to_eof = b"content-length" not in names and b"transfer-encoding" not in names

    def on_body(self, data: bytes) -> None:
        """Hold a piece of the body; too much of it, and the provider has to wait."""
        answer = self._answer
        if answer is not None and answer.add(data) > _HIGH_WATER and not self._paused:
            self._paused = True
            self._open_transport().pause_reading()

    def on_message_complete(self) -> None:
        """End the answer."""
        answer = self._answer
        if answer is not None and answer.begun and not answer.complete:
            answer.complete = True
            self._keep_alive = self._parser.should_keep_alive()


def _size(headers: Headers) -> int:
    """Return how long headers are on the wire, in bytes."""
    return sum(len(name) + len(value) + len(b": \r\n") for name, value in headers)


def _failed(code: str, message: str) -> RouteFailed:
    return RouteFailed(code, message, may_have_run=True)


class _Refused(Exception):
    """An answer that nobody asked for, interim ones without end, or a head that is too long."""
