"""One HTTP exchange with a provider, as a Protocol: whoever implements it can carry a request.

An exchange is entered when the status and headers of the answer have arrived and left when nobody
wants its body any more; leaving it before the body's end closes the connection, which is how a
provider learns that its client has gone.
"""

from collections.abc import Awaitable, Sequence
from types import TracebackType
from typing import Protocol

import msgspec

# Names in lower case.
Headers = Sequence[tuple[bytes, bytes]]
# Those that are the same for many requests, so that what was made of them can be found again.
FixedHeaders = tuple[tuple[bytes, bytes], ...]


class UpstreamRequest(msgspec.Struct, frozen=True):
    """What is sent: an absolute URL, the headers as they go out, and the whole body.

    `headers` are those of many requests, `own` this one's alone.
    """

    method: str
    url: str
    headers: FixedHeaders
    body: bytes
    own: Headers = ()

    def __repr__(self) -> str:
        # The headers hold a key and the body a prompt.
        return f"<UpstreamRequest {self.method} {self.url}>"


class Sink(Protocol):
    """Where the body of an answer flows; `over` when it wants no more."""

    over: bool

    def take(self, data: bytes) -> Awaitable[None]:
        """Take a piece; return NOTHING, or what has to be awaited before the next."""
        ...


class Answer(Protocol):
    """The head of a provider's answer, and its body in pieces."""

    @property
    def status(self) -> int:
        """The HTTP status."""
        ...

    @property
    def headers(self) -> Headers:
        """All headers."""
        ...

    async def read(self) -> bytes:
        """Return the next piece of the body as soon as there is one; empty at its end.

        Raises RouteFailed `upstream_reset` when the connection breaks before the body's end.
        """
        ...

    async def flow(self, sink: Sink) -> None:
        """Hand the rest of the body to `sink` as it comes, until its end or until that is over.

        Raises RouteFailed as `read` does.
        """
        ...


class Exchange(Protocol):
    """One request on its way; an async context manager that owns the connection."""

    @property
    def asked(self) -> bool:
        """False as long as the provider has surely seen nothing of the request."""
        ...

    async def __aenter__(self) -> Answer:
        """Send the request and return the head of the answer.

        Raises RouteFailed: `upstream_unreachable`, `upstream_reset`, `upstream_protocol_error`
        or `upstream_timeout` (the connection could not be made in time).
        """
        ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class Upstream(Protocol):
    """A place that takes requests."""

    def exchange(self, request: UpstreamRequest) -> Exchange:
        """Return the exchange for one request; nothing is sent before it is entered."""
        ...

    @property
    def active(self) -> int:
        """How many exchanges hold a connection now."""
        ...

    async def aclose(self) -> None:
        """Close every connection."""
        ...
