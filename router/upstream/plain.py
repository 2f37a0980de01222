"""The exchange over plain HTTP/1.1, for providers on this machine or its network: our own client.

Small because it does one thing: no TLS, no proxy, no redirect, no cookie, no compression. A request
is sent once. It is never repeated on a fresh connection when a kept one dies under it, because the
provider may have run it; a kept connection is looked at before it is used, so that this is rare.
"""

import asyncio
import time
from functools import partial
from types import TracebackType
from urllib.parse import urlsplit

from router.errors import RouteFailed
from router.fields import field_lines
from router.outbox import Outbox
from router.upstream import FixedHeaders, UpstreamRequest
from router.upstream.connection import Connection, NotSent, PlainAnswer

# Less than any server in use here keeps an idle connection, so that it is we who close it.
_IDLE_S = 4.0
_MAX_IDLE = 64
_MAX_PLACES = 64
_HTTP_PORT = 80


class PlainExchange:
    """One request on its way over a connection of ours."""

    def __init__(self, upstream: "PlainUpstream", request: UpstreamRequest) -> None:
        self._upstream = upstream
        self._request = request
        self._connection: Connection | None = None
        self.asked = False

    async def __aenter__(self) -> PlainAnswer:
        """Send the request and return the head of the answer."""
        upstream, request = self._upstream, self._request
        upstream.active += 1
        try:
            place = upstream.place(request)
            head = place.head(request)
            while (kept := upstream.kept()) is not None:
                self._connection = kept
                try:
                    return await self._ask(kept, head)
                except NotSent:
                    kept.release()
                    self._connection, self.asked = None, False
            self._connection = connection = await upstream.connect(place)
            return await self._ask(connection, head)
        except BaseException:
            self._leave()
            raise

    async def _ask(self, connection: Connection, head: bytes) -> PlainAnswer:
        self.asked = True
        answer = connection.ask(head, self._request.body)
        await answer.head()
        return answer

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Keep the connection when its answer came to its end, else close it."""
        self._leave()

    def _leave(self) -> None:
        self._upstream.active -= 1
        connection, self._connection = self._connection, None
        if connection is not None and connection.release():
            self._upstream.keep(connection)


class Place:
    """Where requests of one URL go, and how the heads of those with the same headers begin."""

    __slots__ = ("_start", "host", "port")

    def __init__(self, method: str, url: str, headers: FixedHeaders) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"not a plain HTTP URL: {url}")
        # A name may lead elsewhere, ::1 first; the address is what it stands for.
        self.host = "127.0.0.1" if parts.hostname == "localhost" else parts.hostname
        self.port = parts.port or _HTTP_PORT
        target = parts.path or "/"
        if parts.query:
            target += f"?{parts.query}"
        authority = parts.netloc.rpartition("@")[2]
        line = f"{method} {target} HTTP/1.1\r\n".encode("ascii")
        self._start = line + field_lines([(b"host", authority.encode("ascii")), *headers])

    def head(self, request: UpstreamRequest) -> bytes:
        """Return the head of a request as bytes; ValueError when it would not be one."""
        own = field_lines(request.own) if request.own else b""
        return b"%b%bcontent-length: %d\r\n\r\n" % (self._start, own, len(request.body))


class PlainUpstream:
    """A provider reached over plain HTTP. `connect_s` bounds the making of a connection.

    Without `keep_alive` every request has a connection of its own.
    """

    def __init__(self, provider: str, *, connect_s: float, keep_alive: bool = True) -> None:
        self.provider = provider
        self._outbox = Outbox()
        self.active = 0
        self._connect_s = connect_s
        self._keep_alive = keep_alive
        self._places: dict[tuple[str, str, FixedHeaders], Place] = {}
        self._idle: list[Connection] = []
        self._reaper: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<PlainUpstream {self.provider} active={self.active} idle={len(self._idle)}>"

    def exchange(self, request: UpstreamRequest) -> PlainExchange:
        """Return the exchange for one request; nothing is sent before it is entered."""
        return PlainExchange(self, request)

    def place(self, request: UpstreamRequest) -> Place:
        """Return where a request goes; a provider has a handful of paths, and of headers."""
        key = (request.method, request.url, request.headers)
        place = self._places.get(key)
        if place is None:
            if len(self._places) >= _MAX_PLACES:
                self._places.clear()
            place = self._places[key] = Place(*key)
        return place

    def kept(self) -> Connection | None:
        """Return a kept connection that still stands, the last used first."""
        while self._idle:
            connection = self._idle.pop()
            age_s = time.monotonic() - connection.idle_since_s
            if connection.is_open and age_s < _IDLE_S:
                return connection
            connection.abort()
        return None

    async def connect(self, place: Place) -> Connection:
        """Return a new connection; raises RouteFailed when there is none to be had in time."""
        loop = asyncio.get_running_loop()
        make = partial(Connection, self.provider, self._outbox)
        try:
            async with asyncio.timeout(self._connect_s):
                _, connection = await loop.create_connection(make, place.host, place.port)
        except TimeoutError as error:
            raise RouteFailed(
                "upstream_timeout", f"{self.provider} could not be reached in time."
            ) from error
        except OSError as error:
            raise self._unreachable() from error
        if connection.meets_itself():
            connection.abort()
            raise self._unreachable()
        return connection

    def _unreachable(self) -> RouteFailed:
        return RouteFailed(
            "upstream_unreachable",
            f"{self.provider} does not answer at its address. Is it running?",
        )

    def keep(self, connection: Connection) -> None:
        """Keep a connection for the next request."""
        if not self._keep_alive or len(self._idle) >= _MAX_IDLE:
            connection.abort()
            return
        self._idle.append(connection)
        if self._reaper is None:
            self._reaper = asyncio.get_running_loop().call_later(_IDLE_S, self._reap)

    def _reap(self) -> None:
        """Close what was idle for too long, and look again while there is any left."""
        oldest_s = time.monotonic() - _IDLE_S
        old = [each for each in self._idle if each.idle_since_s <= oldest_s or not each.is_open]
        for connection in old:
            connection.abort()
        self._idle = [connection for connection in self._idle if connection not in old]
        self._reaper = (
            asyncio.get_running_loop().call_later(_IDLE_S / 2, self._reap) if self._idle else None
        )

    async def aclose(self) -> None:
        """Close every connection that is kept."""
        if self._reaper is not None:
            self._reaper.cancel()
            self._reaper = None
        for connection in self._idle:
            connection.abort()
        self._idle.clear()
        # One turn for the transports to close their sockets.
        await asyncio.sleep(0)
