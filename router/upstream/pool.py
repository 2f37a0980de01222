"""aiohttp's pool of connections, held to what an exchange promises.

aiohttp takes any number of interim answers and a head of megabytes, takes what a server said
unasked for the answer to the next request, takes a reset for the end of a body that ends with its
connection, leaves the reader of a broken chunk waiting, and lets a closing connection wait until
all was sent. It has no public place to name the class of a connection, so that one private name is
set here; the conformance tests of exchanges notice when that no longer holds.
"""

import errno
import functools
import select
import socket
from typing import TYPE_CHECKING, Any, cast

import aiohttp
from aiohttp.abc import ResolveResult
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import BadHttpMessage, HttpProcessingError

if TYPE_CHECKING:
    from aiohttp.client_reqrep import ClientRequest
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

_MAX_HEAD = 1 << 16
# Answers that only announce the real one (100, 103); a provider has no use for more.
_MAX_INTERIM = 16
_FINAL, _SWITCHING = 200, 101


class SpokeFirst(aiohttp.ClientError):
    """A server that said something before it was asked anything."""


class _Wire(ResponseHandler):
    """One connection."""

    fresh = True

    def is_connected(self) -> bool:
        """Tell whether a connection that lies in the pool can carry another request.

        Its end, or bytes that nobody asked for, may be in the kernel's hands already when the
        event loop has not had a turn to notice.
        """
        return super().is_connected() and not self.should_close and not self._has_news()

    def _has_news(self) -> bool:
        assert self.transport is not None  # noqa: S101 it is connected
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def meets_itself(self) -> bool:
        """Tell whether the kernel joined the socket with itself.

        It can where nobody listens on a port of the range that it gives to outgoing connections.
        """
        if self.transport is None:
            return False
        ends = self.transport.get_extra_info("sockname"), self.transport.get_extra_info("peername")
        return bool(ends[0]) and ends[0] == ends[1]

    async def read(self) -> Any:
        """Return the head of the answer, after as many announcements of it as are sensible."""
        for _ in range(_MAX_INTERIM):
            head, body = await super().read()
            if sum(len(name) + len(value) for name, value in head.raw_headers) > _MAX_HEAD:
                raise BadHttpMessage("a head without measure")
            if head.code == _SWITCHING:
                raise BadHttpMessage("another protocol, which nobody asked for")
            if head.code >= _FINAL:
                return head, body
        raise BadHttpMessage("too many interim answers")

    def close(self) -> None:
        """Close at once: what was not sent by now is not wanted any more."""
        self.abort()

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        """Tell the reader of a body, too, what was wrong with it."""
        super().set_exception(exc, *cause)
        body = self._payload
        if isinstance(exc, HttpProcessingError) and body is not None and not body.is_eof():
            body.set_exception(exc, *cause)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tell the reader of a body that was to end with its connection that it broke instead."""
        body = self._payload
        if exc is not None and body is not None and not body.is_eof():
            body.set_exception(aiohttp.ClientPayloadError(repr(exc)), exc)
        super().connection_lost(exc)


class Connector(aiohttp.TCPConnector):
    """Makes connections, keeps them, and lends out those on which only our request comes next."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        make = functools.partial(_Wire, loop=self._loop)
        self._factory = cast("functools.partial[ResponseHandler]", make)

    async def connect(
        self,
        req: "ClientRequest",
        traces: "list[Trace]",
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 aiohttp's own signature
    ) -> "Connection":
        """Return a connection; raises SpokeFirst or one of aiohttp's errors."""
        connection = await super().connect(req, traces, timeout)
        wire = connection.protocol
        if isinstance(wire, _Wire) and wire.fresh:
            wire.fresh = False
            if wire.meets_itself():
                connection.close()
                nobody = OSError(errno.ECONNREFUSED, "nobody listens there")
                raise aiohttp.ClientConnectorError(req.connection_key, nobody)
            if wire.should_close:
                connection.close()
                raise SpokeFirst
        return connection


class LoopbackResolver(aiohttp.ThreadedResolver):
    """The system's resolver, for which `localhost` is this machine's IPv4 loopback alone.

    A stranger may listen on ::1 under the provider's port.
    """

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of a host."""
        if host.lower().rstrip(".") != "localhost":
            return await super().resolve(host, port, family)
        return [
            ResolveResult(
                hostname=host,
                host="127.0.0.1",
                port=port,
                family=socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
        ]
