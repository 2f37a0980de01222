"""Many streams at once: how many of their events arrive, and how late."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import httptools
import uvloop

from bench import exchange
from bench.machine import running_on
from bench.paced_server import PERIOD_S
from bench.spread import percentile
from bench.target import Way

_GRACE_S = 20.0


class StreamsFailed(Exception):
    """Streams were refused, cut off, or did not end in time."""


@dataclass(frozen=True, slots=True)
class Streams:
    """What arrived of all streams: events, and how long they were on their way, in milliseconds."""

    events: int
    seconds: float
    p50_ms: float
    p99_ms: float


class StreamReader(asyncio.Protocol):
    """One connection that asks for a stream and notes how late each event of it arrives."""

    def __init__(self, request: bytes, lags_ns: list[int]) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request = request
        self._lags_ns = lags_ns
        self._parser = httptools.HttpResponseParser(self)
        self._rest = b""
        self._is_whole = False
        self._arrived_ns = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the stream."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Note when this came, and read it."""
        self._arrived_ns = time.monotonic_ns()
        self._parser.feed_data(data)

    def on_body(self, data: bytes) -> None:
        """Note the lag of each event that is whole now."""
        *events, self._rest = (self._rest + data).split(b"\n\n")
        for event in events:
            self._is_whole = event == b"data: [DONE]"
            written_ns = exchange.written_ns(event)
            if written_ns is not None:
                self._lags_ns.append(self._arrived_ns - written_ns)

    def on_message_complete(self) -> None:
        """Take an answer that ends without its last event for a failure."""
        if self._is_whole:
            self._end(None)
            return
        status = self._parser.get_status_code()
        self._end(StreamsFailed(f"an answer with status {status} was no whole stream"))

    def connection_lost(self, error: Exception | None) -> None:
        """Take a connection that ends before its stream for a failure."""
        self._end(StreamsFailed(f"a connection was lost: {error or 'it was closed'}"))

    def _end(self, failure: StreamsFailed | None) -> None:
        if self.ended.done():
            return
        if failure is None:
            self.ended.set_result(None)
        else:
            self.ended.set_exception(failure)
        self._transport.close()


def read_streams(way: Way, count: int, seconds: float, core: int | None) -> Streams:
    """Read `count` streams of some seconds at once; StreamsFailed when any fails."""
    with running_on(core):
        lags_ns, took_s = uvloop.run(_read_all(way, count, seconds))
    return measured(lags_ns, took_s)


def measured(lags_ns: Sequence[int], took_s: float) -> Streams:
    """Return the figures of all events' lags."""
    if not lags_ns:
        raise StreamsFailed("no event arrived")
    p50, p99 = percentile(lags_ns, 0.5) / 1e6, percentile(lags_ns, 0.99) / 1e6
    return Streams(len(lags_ns), took_s, p50, p99)


async def _read_all(way: Way, count: int, seconds: float) -> tuple[list[int], float]:
    port, body = way.port, exchange.request(way.model, stream=True)
    head = (
        f"POST {way.path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    request, loop = head.encode() + body, asyncio.get_running_loop()
    lags_ns: list[int] = []
    readers: list[StreamReader] = []
    since = time.perf_counter()
    try:
        async with asyncio.timeout(seconds + _GRACE_S):
            for _ in range(count):
                _, reader = await loop.create_connection(
                    lambda: StreamReader(request, lags_ns), "127.0.0.1", port
                )
                readers.append(reader)
                # Streams that people start are not in step: all events at once would queue.
                await asyncio.sleep(PERIOD_S / count)
            ends = await asyncio.gather(
                *(reader.ended for reader in readers), return_exceptions=True
            )
    except TimeoutError:
        raise StreamsFailed(f"streams of {seconds:.0f} s did not end in time") from None
    except OSError as error:
        raise StreamsFailed(f"no connection to port {port}: {error}") from error
    for end in ends:
        if end is not None:
            raise end
    return lags_ns, time.perf_counter() - since
