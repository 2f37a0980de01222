"""The exchange over aiohttp: TLS, certificate authorities of one's own, and outbound proxies.

aiohttp's conveniences are switched off: it follows no redirect, reads no proxy variable, keeps no
cookie, inflates no body and sets no deadline of its own but the one for connecting. What it lets
pass all the same is caught in `pool`.
"""

import ssl
from io import BytesIO
from types import TracebackType
from typing import Final

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from router.errors import RouteFailed
from router.upstream import Headers, Sink, UpstreamRequest
from router.upstream.pool import Connector, LoopbackResolver, SpokeFirst

# A cloud's balancer keeps an idle connection for a minute and more; TLS anew costs a round trip.
_KEEP_ALIVE_S = 15.0
_READ_BUFFER = 1 << 16
# aiohttp copies a body in one go up to here, and warns beyond it.
_AT_ONCE = 1 << 20
_MAX_FIELD = 1 << 15
# OpenSSL's verdicts that a certificate is another host's, and that its day has passed.
_WRONG_HOST = frozenset({62, 64})
_EXPIRED = 10
_NOT_HTTP = "sent something that is not HTTP."


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

    async def read(self) -> bytes:
        """Return the next piece of the body as soon as there is one; empty at its end."""
        # aiohttp keeps its errors, and would keep by their frames all that waits for this.
        try:
            return await self._response.content.readany()
        except HttpProcessingError as error:
            raise RouteFailed(
                "upstream_protocol_error", f"{self._provider} {_NOT_HTTP}", may_have_run=True
            ) from error.with_traceback(None)
        except (aiohttp.ClientError, OSError) as error:
            raise RouteFailed(
                "upstream_reset",
                f"{self._provider} broke the connection within its answer.",
                may_have_run=True,
            ) from error.with_traceback(None)

    async def flow(self, sink: Sink) -> None:
        """Hand the rest of the body to `sink` as it comes."""
        while not sink.over and (data := await self.read()):
            await sink.take(data)


class AiohttpExchange:
    """One request on its way through aiohttp."""

    def __init__(self, upstream: "AiohttpUpstream", request: UpstreamRequest) -> None:
        self._upstream = upstream
        self._request = request
        self._response: aiohttp.ClientResponse | None = None
        # aiohttp does not say when.
        self.asked = True

    async def __aenter__(self) -> AiohttpAnswer:
        """Send the request and return the head of the answer."""
        upstream, request = self._upstream, self._request
        upstream.active += 1
        try:
            self._response = await upstream.session.request(
                request.method,
                request.url,
                data=BytesIO(request.body) if len(request.body) > _AT_ONCE else request.body,
                headers=[
                    (name.decode(), value.decode())
                    for name, value in (*request.headers, *request.own)
                ],
                allow_redirects=False,
                proxy=upstream.proxy,
            )
        except (aiohttp.ClientError, OSError) as error:
            raise _failure(upstream.provider, error) from error
        finally:
            if self._response is None:
                upstream.active -= 1
        return AiohttpAnswer(self._response, upstream.provider)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connection, unless the body was read to its end: then it is back already."""
        response, self._response = self._response, None
        if response is not None:
            self._upstream.active -= 1
            response.close()


class AiohttpUpstream:
    """A provider reached through aiohttp. Needs a running event loop.

    `connect_s` bounds the making of a connection: name, TCP, proxy and TLS together. `trust` says
    whose certificates are believed. `proxy` is the address of an HTTP proxy. Without `keep_alive`
    every request has a connection of its own.
    """

    def __init__(
        self,
        provider: str,
        connect_s: float,
        *,
        trust: ssl.SSLContext,
        proxy: str | None = None,
        keep_alive: bool = True,
    ) -> None:
        self.provider = provider
        self.proxy = proxy
        self.active = 0
        self.session = aiohttp.ClientSession(
            connector=Connector(
                ssl=trust,
                resolver=LoopbackResolver(),
                limit=0,
                force_close=not keep_alive,
                **({"keepalive_timeout": _KEEP_ALIVE_S} if keep_alive else {}),
            ),
            timeout=aiohttp.ClientTimeout(total=None, connect=connect_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            read_bufsize=_READ_BUFFER,
            max_line_size=_MAX_FIELD,
            max_field_size=_MAX_FIELD,
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


# What it means that a request was never run, the narrowest of aiohttp's errors first.
_NOT_RUN: Final[tuple[tuple[type[Exception], str, str], ...]] = (
    (aiohttp.ConnectionTimeoutError, "upstream_timeout", "could not be reached in time."),
    (
        aiohttp.ClientProxyConnectionError,
        "upstream_unreachable",
        "cannot be reached: its proxy does not answer. See the provider's proxy in router.yaml.",
    ),
    (
        aiohttp.ClientHttpProxyError,
        "upstream_unreachable",
        "cannot be reached: its proxy refuses. See the provider's proxy in router.yaml.",
    ),
    (
        aiohttp.ClientConnectorSSLError,
        "upstream_unreachable",
        "does not speak TLS at its https:// address.",
    ),
    (
        aiohttp.ClientConnectorError,
        "upstream_unreachable",
        "does not answer at its address. Is it running?",
    ),
    (aiohttp.InvalidURL, "upstream_unreachable", "has a base_url that is no address."),
    (SpokeFirst, "upstream_protocol_error", "spoke before it was asked, which is not HTTP."),
)


def _failure(provider: str, error: Exception) -> RouteFailed:
    """Return what it means that no answer came, in words that say what to do."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        told = _distrust(provider, error.certificate_error)
        return RouteFailed("upstream_unreachable", told)
    for kind, code, told in _NOT_RUN:
        if isinstance(error, kind):
            return RouteFailed(code, f"{provider} {told}")
    if isinstance(error, aiohttp.ClientResponseError):
        return RouteFailed("upstream_protocol_error", f"{provider} {_NOT_HTTP}", may_have_run=True)
    return RouteFailed(
        "upstream_reset",
        f"{provider} closed the connection before it answered.",
        may_have_run=True,
    )


def _distrust(provider: str, error: Exception) -> str:
    code = getattr(error, "verify_code", 0)
    why = getattr(error, "verify_message", "") or str(error)
    if code in _WRONG_HOST:
        return f"{provider} shows the certificate of another host: {why}"
    if code == _EXPIRED:
        return f"{provider} shows a certificate that has expired."
    return (
        f"{provider} shows a certificate that is not trusted here: {why}. Where its authority is "
        "your own, name the authority's PEM file in the provider's ca_file in router.yaml."
    )
