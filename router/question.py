"""What the router asks a provider by itself: the key goes with it, and nothing of any client."""

from router.catalog import Provider
from router.upstream import FixedHeaders, UpstreamRequest

_KEY_HEADERS = {
    "authorization": (b"authorization", b"Bearer "),
    "x-api-key": (b"x-api-key", b""),
}


def key_of(provider: Provider) -> FixedHeaders:
    """Return the header that holds a provider's key; none where it has no key."""
    if provider.api_key is None:
        return ()
    name, scheme = _KEY_HEADERS[provider.key_header]
    return ((name, scheme + provider.api_key.encode()),)


def question(provider: Provider, url: str, body: bytes = b"") -> UpstreamRequest:
    """Return a request for JSON: a POST where something is told with it, else a GET."""
    headers = (
        (b"accept", b"application/json"),
        (b"accept-encoding", b"identity"),
        *(((b"content-type", b"application/json"),) if body else ()),
        *((name.encode(), value.encode()) for name, value in provider.headers),
        *key_of(provider),
    )
    return UpstreamRequest("POST" if body else "GET", url, headers, body)
