"""A provider's answer as the client gets it: what passes, what is refused, what is an error.

Everything here happens before the first byte goes out, so that a failure can still be answered by
another route.
"""

from dataclasses import dataclass

import msgspec

from router.errors import ProviderFailed, Refused, Reply, RouteFailed, StreamFailed
from router.sse import ChatStream, EventSplitter, payload_of
from router.upstream import Answer, Headers

_ERROR_BODY = 64 << 10
# Twice the longest event: what comes before the first one is held, so it has to be bounded.
_HELD = 2 << 20
_JSON = msgspec.json.Decoder()
_OK, _BAD, _SERVER_ERROR, _BAD_GATEWAY = 200, 400, 500, 502
_REFUSES_US = frozenset({401, 403})
# What a client may learn of a provider's headers; the provider's request id gets a name of its own.
_PASSED = frozenset({b"content-type", b"retry-after", b"x-should-retry"})
_PASSED_PREFIXES = (b"x-ratelimit-", b"openai-")


@dataclass(frozen=True, slots=True)
class OpenStream:
    """A stream whose first event with data is at hand: what follows can only end in a frame.

    `first` are the events up to it, `pending` those that came in the same piece after it.
    """

    headers: tuple[tuple[bytes, bytes], ...]
    first: tuple[bytes, ...]
    pending: tuple[bytes, ...]
    splitter: EventSplitter
    state: ChatStream


async def open_answer(
    answer: Answer, provider: str, *, stream: bool, size: int
) -> Reply | OpenStream:
    """Return the whole answer, at most `size` bytes of it, or a stream at its first event.

    Raises RouteFailed (the codes of a provider's misbehaviour) or ProviderFailed (its own 5xx);
    a provider's 4xx is the caller's and returned as it is.
    """
    if answer.status >= _BAD:
        return await _error_answer(answer, provider)
    if answer.status != _OK:
        raise _invalid(provider, f"status {answer.status}")
    if answer.header(b"content-encoding") not in {b"", b"identity"}:
        raise _invalid(provider, "an encoding that was not asked for")
    kind = answer.header(b"content-type").partition(b";")[0].strip().lower()
    if kind != (b"text/event-stream" if stream else b"application/json"):
        raise _invalid(provider, f"content type {kind.decode('latin-1') or 'none'!r}")
    if stream:
        return await _open_stream(answer, provider)
    body = await _read_whole(answer, provider, size)
    try:
        _JSON.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _invalid(provider, "a body that is not JSON") from error
    return Reply(answer.status, passed_headers(answer.headers), body)


async def _open_stream(answer: Answer, provider: str) -> OpenStream:
    """Read up to the first event with data, so that an error in its place is still a fallback."""
    splitter, state = EventSplitter(), ChatStream()
    held: list[bytes] = []
    held_bytes = 0
    while data := await answer.read():
        held_bytes += len(data)
        if held_bytes > _HELD:
            raise _invalid(provider, "a stream of nothing but comments")
        try:
            events = splitter.feed(data)
            for position, event in enumerate(events, 1):
                held.append(event)
                payload = payload_of(event)
                if payload is None:
                    continue
                state.observe(payload)
                if state.said_done:
                    raise _invalid(provider, "an empty stream")
                if state.said_error:
                    raise _failed_at_once(provider, answer, payload)
                headers = passed_headers(answer.headers)
                return OpenStream(headers, tuple(held), tuple(events[position:]), splitter, state)
        except StreamFailed as error:
            raise _invalid(provider, "a stream whose events are not JSON") from error
    raise _invalid(provider, "a stream that ended before its first event")


def _failed_at_once(provider: str, answer: Answer, payload: bytes) -> ProviderFailed:
    """Return the failure of a stream that began with an error: its own words are kept."""
    headers = [pair for pair in passed_headers(answer.headers) if pair[0] != b"content-type"]
    return ProviderFailed(
        "upstream_invalid_response",
        f"{provider} began its stream with an error.",
        reply=Reply(_BAD_GATEWAY, (*headers, (b"content-type", b"application/json")), payload),
    )


async def _error_answer(answer: Answer, provider: str) -> Reply:
    if answer.status in _REFUSES_US:
        raise RouteFailed(
            "provider_auth_error",
            f"{provider} refused the router's credentials ({answer.status}). "
            "Check the provider's api_key in router.yaml.",
        )
    body = await _error_body(answer)
    # Whatever it was called, it is JSON by now: nothing here may pass as a page.
    others = (pair for pair in passed_headers(answer.headers) if pair[0] != b"content-type")
    headers = (*others, (b"content-type", b"application/json"))
    if body is None:
        problem = f"{provider} answered {answer.status} without an error that can be read."
        if answer.status >= _SERVER_ERROR:
            raise RouteFailed("upstream_invalid_response", problem)
        wrapped = Refused("invalid_request", problem).body()
        return Reply(answer.status, headers, wrapped)
    reply = Reply(answer.status, headers, body)
    if answer.status >= _SERVER_ERROR:
        raise ProviderFailed(
            "upstream_invalid_response", _said(provider, answer.status, body), reply=reply
        )
    return reply


def _said(provider: str, status: int, body: bytes) -> str:
    """Return a line for the log: the provider's own code where it has one."""
    error = _JSON.decode(body)["error"]
    code = error.get("code") if isinstance(error, dict) else None
    named = f" ({code[:64]!r})" if isinstance(code, str) else ""
    return f"{provider} answered {status}{named}."


async def _error_body(answer: Answer) -> bytes | None:
    """Return an OpenAI-shaped error body as it came, None when it is none or too large."""
    body = bytearray()
    while data := await answer.read():
        body += data
        if len(body) > _ERROR_BODY:
            return None
    try:
        decoded = _JSON.decode(bytes(body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return bytes(body) if isinstance(decoded, dict) and decoded.get("error") else None


async def _read_whole(answer: Answer, provider: str, size: int) -> bytes:
    pieces: list[bytes] = []
    total = 0
    while data := await answer.read():
        total += len(data)
        if total > size:
            raise RouteFailed(
                "upstream_response_too_large", f"{provider} answered with more than {size} bytes."
            )
        pieces.append(data)
    return b"".join(pieces)


def passed_headers(headers: Headers) -> tuple[tuple[bytes, bytes], ...]:
    """Return the headers of a provider that its client may see; no value that is not plain text."""
    passed = []
    for name, value in headers:
        if name in _PASSED or name.startswith(_PASSED_PREFIXES):
            told = name
        elif name == b"x-request-id":
            told = b"x-upstream-request-id"
        else:
            continue
        if value.isascii() and value.decode().isprintable():
            passed.append((told, value))
    return tuple(passed)


def _invalid(provider: str, what: str) -> RouteFailed:
    return RouteFailed("upstream_invalid_response", f"{provider} answered with {what}.")
