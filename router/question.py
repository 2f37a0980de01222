"""What the router asks a provider by itself: the key goes with it, and nothing of any client."""

import asyncio

from router.catalog import Provider
from router.upstream import Upstream, UpstreamRequest


def question(provider: Provider, url: str, body: bytes = b"") -> UpstreamRequest:
    """Return a request for JSON: a POST where something is told with it, else a GET."""
    headers = (
        (b"accept", b"application/json"),
        (b"accept-encoding", b"identity"),
        *(((b"content-type", b"application/json"),) if body else ()),
        *provider.own_headers(),
    )
    return UpstreamRequest("POST" if body else "GET", url, headers, body)


async def answered(
    upstream: Upstream, request: UpstreamRequest, within_s: float, size: int
) -> tuple[int, bytes]:
    """Return the status and the body of the answer to a question.

    Raises TimeoutError where it is not whole within `within_s` seconds, ValueError where it has
    more than `size` bytes, RouteFailed where none came.
    """
    body = bytearray()
    async with asyncio.timeout(within_s), upstream.exchange(request) as answer:
        while piece := await answer.read():
            body += piece
            if len(body) > size:
                raise ValueError(f"more than {size} bytes")
        return answer.status, bytes(body)
