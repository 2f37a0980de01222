"""The way of LiteLLM's requests: a transport for its client that is a provider's own Upstream.

Of httpx it has the two methods that a client calls; what it is made of is handed in.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

from router.errors import RouteFailed
from router.translation import LineEnds
from router.upstream import Answer, Exchange, Headers, Upstream, UpstreamRequest

_BAD: Final = 400
_ERROR_BYTES: Final = 64 << 10
_LONGEST_LINE: Final = 32 << 20
# Headers that are ours to set, or nobody's business.
_NOT_SENT: Final = frozenset(
    {
        b"accept-encoding",
        b"connection",
        b"content-length",
        b"host",
        b"transfer-encoding",
        b"user-agent",
    }
)
# What of an answer's head still holds for the translated one.
_REQUEST_IDS: Final = frozenset({b"request-id", b"x-request-id", b"x-amzn-requestid"})
_PASSED: Final = (b"retry-after", b"x-ratelimit-")


class Wire:
    """What one call sends and gets, through `carrier`; `leave` lets go of it all.

    `size` bounds a whole answer, in bytes. `make` is httpx's Response. `complete` returns the body
    to be sent for LiteLLM's, and may raise RouteFailed. `failure` is why the last request could not
    be carried, `status` and `headers` are its answer's, `error` is the body of a refusal.
    """

    def __init__(
        self,
        provider: str,
        carrier: Upstream,
        size: int,
        make: Any,
        complete: Callable[[bytes], Awaitable[bytes]],
    ) -> None:
        self._provider = provider
        self._carrier = carrier
        self._size = size
        self._make = make
        self._complete = complete
        self._exchanges: list[Exchange] = []
        self._bodies: list[AsyncGenerator[bytes, None]] = []
        self.asked = False
        self.failure: RouteFailed | None = None
        self.status: int | None = None
        self.headers: Headers = ()
        self.error = b""

    def __repr__(self) -> str:
        return f"<Wire to {self._provider} {self.status}>"

    async def handle_async_request(self, request: Any) -> Any:
        """Carry one request of httpx's and return its answer, the body still to come."""
        headers = [(name.lower(), value) for name, value in request.headers.raw]
        own = [pair for pair in headers if pair[0] not in _NOT_SENT]
        own.append((b"accept-encoding", b"identity"))
        try:
            answer = await self._sent(request, own)
        except RouteFailed as failure:
            self.failure = failure
            raise
        self.status, self.headers = answer.status, answer.headers
        body = self._body(answer)
        self._bodies.append(body)
        return self._make(answer.status, headers=list(answer.headers), content=body)

    async def _sent(self, request: Any, own: list[tuple[bytes, bytes]]) -> Answer:
        body = await self._complete(await request.aread())
        exchange = self._carrier.exchange(
            UpstreamRequest(request.method, str(request.url), (), body, own)
        )
        try:
            answer = await exchange.__aenter__()
        finally:
            self.asked = self.asked or exchange.asked
        self._exchanges.append(exchange)
        return answer

    async def aclose(self) -> None:
        """Do nothing: what was opened is closed by `leave`."""

    async def _body(self, answer: Answer) -> AsyncGenerator[bytes, None]:
        """Yield an answer's body, bounded, and with no line ends but those of the protocol."""
        is_error = answer.status >= _BAD
        is_stream = (b"content-type", b"text/event-stream") in [
            (name, value.partition(b";")[0].strip()) for name, value in answer.headers
        ]
        ends, total, line = LineEnds(), 0, 0
        try:
            self._check_encoding(answer.headers)
            while data := await answer.read():
                total += len(data)
                line = len(data) - data.rfind(b"\n") if b"\n" in data else line + len(data)
                if is_error:
                    self.error = (self.error + data)[:_ERROR_BYTES]
                if line > _LONGEST_LINE if is_stream else total > self._size:
                    raise self._failed("upstream_response_too_large", "more than is let in")
                yield ends.feed(data) if is_stream else data
        except RouteFailed as failure:
            self.failure = failure
            raise
        yield ends.rest()

    def _check_encoding(self, headers: Headers) -> None:
        for name, value in headers:
            if name == b"content-encoding" and value.strip().lower() != b"identity":
                raise self._failed(
                    "upstream_invalid_response", "an encoding that was not asked for"
                )

    def _failed(self, code: str, what: str) -> RouteFailed:
        return RouteFailed(code, f"{self._provider} answered with {what}.", may_have_run=True)

    async def leave(self) -> None:
        """Let go of all connections: those whose answer is not at its end are closed."""
        exchanges, self._exchanges = self._exchanges, []
        for exchange in exchanges:
            await exchange.__aexit__(None, None, None)
        for body in self._bodies:
            # Whoever reads it may not have noticed yet that it was cancelled.
            with suppress(RuntimeError):
                await body.aclose()

    def told(self, kind: bytes) -> Headers:
        """Return the headers of the translated answer, whose content type this is."""
        passed = [pair for pair in self.headers if pair[0].startswith(_PASSED)]
        ids = [(b"x-request-id", value) for name, value in self.headers if name in _REQUEST_IDS]
        return ((b"content-type", kind), *passed, *ids[:1])
