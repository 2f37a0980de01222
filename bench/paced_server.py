"""An upstream whose every answer is a paced stream.

`python -m bench.paced_server SECONDS PORT [TLS_PORT CERTIFICATE KEY]`, the latter for TLS besides.
Each event says when it was written, so that a reader can tell how long it was on its way.
"""

import asyncio
import ssl
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Final, cast

import httptools
import uvloop

from bench import exchange

PERIOD_S: Final = 0.02
_BACKLOG: Final = 2048
_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_WELL: Final = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


class PacedStream(asyncio.Protocol):
    """One connection: each POST is answered with `events` events, one each PERIOD_S."""

    def __init__(self, events: int) -> None:
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._timer: asyncio.TimerHandle | None = None
        self._started_s = 0.0
        self._sent = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to write."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Read on, until `on_message_complete` tells that a request is whole."""
        self._parser.feed_data(data)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 asyncio's interface
        """Write nothing more."""
        if self._timer is not None:
            self._timer.cancel()

    def on_message_complete(self) -> None:
        """Begin a stream, or say that we are well."""
        if self._parser.get_method() != b"POST":
            self._transport.write(_WELL)
            return
        self._started_s, self._sent = self._loop.time(), 0
        self._transport.write(_HEAD)
        self._write()

    def _write(self) -> None:
        if self._sent == self._events:
            self._transport.write(_chunk(exchange.LAST_EVENTS) + b"0\r\n\r\n")
            return
        self._transport.write(_chunk(exchange.event(time.monotonic_ns())))
        self._sent += 1
        # By the stream's own start, so that a late event delays none after it.
        due_s = self._started_s + self._sent * PERIOD_S
        self._timer = self._loop.call_at(due_s, self._write)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def events_in(seconds: float) -> int:
    """Return how many events a stream of that length has."""
    return round(seconds / PERIOD_S)


async def _serve(seconds: float, port: int, tls: Sequence[str]) -> None:
    loop = asyncio.get_running_loop()
    serve = partial(PacedStream, events_in(seconds))
    if tls:
        tls_port, certificate, key = tls
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)
        await loop.create_server(serve, "127.0.0.1", int(tls_port), backlog=_BACKLOG, ssl=context)
    # Last: whoever is answered here may count on the other one.
    server = await loop.create_server(serve, "127.0.0.1", port, backlog=_BACKLOG)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(float(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
