"""What the router asks a provider by itself."""

import pytest

from router.catalog import Kind, Locality, Provider
from router.question import question


@pytest.mark.parametrize(
    ("key", "key_header", "sent"),
    [
        (None, "authorization", ()),
        ("k", "authorization", ((b"authorization", b"Bearer k"),)),
        ("k", "x-api-key", ((b"x-api-key", b"k"),)),
    ],
)
def test_the_key_goes_where_the_provider_looks_for_it(
    key: str | None, key_header: str, sent: tuple[tuple[bytes, bytes], ...]
) -> None:
    """The same header that requests to it have."""
    provider = Provider("p", Kind.OPENAI, "http://p/v1", Locality.LOCAL, key, key_header=key_header)
    request = question(provider, "http://p/v1/models")
    assert request.method == "GET"
    assert request.headers == (
        (b"accept", b"application/json"),
        (b"accept-encoding", b"identity"),
        *sent,
    )


def test_what_is_told_is_json() -> None:
    """A question with a body says what it is, after it the provider's own headers."""
    provider = Provider("p", Kind.OPENAI, "http://p/v1", Locality.LOCAL, headers=(("x-a", "b"),))
    request = question(provider, "http://p/show", b"{}")
    assert (request.method, request.body) == ("POST", b"{}")
    assert request.headers[2:] == ((b"content-type", b"application/json"), (b"x-a", b"b"))
