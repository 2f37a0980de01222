"""What the router asks a provider by itself: the key goes with it, and nothing of any client."""

from router.catalog import Provider
from router.upstream import UpstreamRequest


def question(provider: Provider, url: str, body: bytes = b"") -> UpstreamRequest:
    """Return a request for JSON: a POST where something is told with it, else a GET."""
    headers = (
        (b"accept", b"application/json"),
        (b"accept-encoding", b"identity"),
        *(((b"content-type", b"application/json"),) if body else ()),
        *provider.own_headers(),
    )
    return UpstreamRequest("POST" if body else "GET", url, headers, body)
