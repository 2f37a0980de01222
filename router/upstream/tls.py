"""The exchange over aiohttp: TLS and plain HTTP, pooled connections, no hidden behaviour.

aiohttp's conveniences are switched off: it follows no redirect, reads no proxy variable, keeps no
cookie, inflates no body and sets no deadline of its own but the one for connecting.
"""

from types import TracebackType

import aiohttp

from router.errors import RouteFailed
from router.upstream import Headers, UpstreamRequest

# A local server may close an idle connection at any moment; taking a new one is cheap.
_KEEP_ALIVE_S = 15.0
_READ_BUFFER = 1 << 16
_MAX_HEADER = 1 << 16


class AiohttpAnswer:
    """The head of an answer that aiohttp received, and its body in pieces."""

    def __init__(self, response: aiohttp.ClientResponse, provider: str) -> None:
        self._response = response
        self._provider = provider

    def __repr__(self) -> str:
        return f"<AiohttpAnswer {self._response.status} from {self._provider}>"

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self._response.status

    @property
    def headers(self) -> Headers:
        """All headers."""
        return [(name.lower(), value) for name, value in self._response.raw_headers]

    def header(self, name: bytes) -> bytes:
        """Return the first header of that name."""
        for key, value in self._response.raw_headers:
            if key.lower() == name:
                return value
        return b""

    async def read(self) -> bytes:
        """Return the next piece of the body as soon as there is one; empty at its end."""
        try:
            return await self._response.content.readany()
        except (aiohttp.ClientError, OSError) as error:
            raise RouteFailed(
                "upstream_reset",
                f"{self._provider} broke the connection within its answer.",
                may_have_run=True,
            ) from error


class AiohttpExchange:
    """One request on its way through aiohttp."""

    def __init__(self, upstream: "AiohttpUpstream", request: UpstreamRequest) -> None:
        self._upstream = upstream
        self._request = request
        self._response: aiohttp.ClientResponse | None = None

    async def __aenter__(self) -> AiohttpAnswer:
        """Send the request and return the head of the answer."""
        upstream, provider = self._upstream, self._upstream.provider
        upstream.active += 1
        try:
            self._response = await self._send()
        except aiohttp.ConnectionTimeoutError as error:
            raise RouteFailed(
                "upstream_timeout", f"{provider} could not be reached in time."
            ) from error
        except (aiohttp.ClientConnectorError, aiohttp.InvalidURL) as error:
            raise RouteFailed(
                "upstream_unreachable",
                f"{provider} does not answer at its address. Is it running?",
            ) from error
        except aiohttp.ClientResponseError as error:
            raise RouteFailed(
                "upstream_protocol_error", f"{provider} sent something that is not HTTP."
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise RouteFailed(
                "upstream_reset",
                f"{provider} closed the connection before it answered.",
                may_have_run=True,
            ) from error
        finally:
            if self._response is None:
                upstream.active -= 1
        return AiohttpAnswer(self._response, provider)

    async def _send(self) -> aiohttp.ClientResponse:
        request = self._request
        return await self._upstream.session.request(
            request.method,
            request.url,
            data=request.body,
            headers=[(name.decode(), value.decode()) for name, value in request.headers],
            allow_redirects=False,
        )

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the connection back when the body was read to its end, else close it."""
        response, self._response = self._response, None
        if response is not None:
            self._upstream.active -= 1
            # Closing after the end was reached returns the connection to the pool.
            response.close()


class AiohttpUpstream:
    """A provider reached through aiohttp. `connect_s` bounds the making of a connection."""

    def __init__(self, provider: str, connect_s: float) -> None:
        self.provider = provider
        self.active = 0
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            read_bufsize=_READ_BUFFER,
            max_field_size=_MAX_HEADER,
            skip_auto_headers={"user-agent", "accept", "accept-encoding"},
        )

    def __repr__(self) -> str:
        return f"<AiohttpUpstream {self.provider} active={self.active}>"

    def exchange(self, request: UpstreamRequest) -> AiohttpExchange:
        """Return the exchange for one request; nothing is sent before it is entered."""
        return AiohttpExchange(self, request)

    async def aclose(self) -> None:
        """Close every connection."""
        await self.session.close()
