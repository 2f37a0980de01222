"""A provider's answer as the client gets it: what passes, what is refused, what is an error.

Everything here happens before the first byte goes out, so that a failure can still be answered by
another route.
"""

import math
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from router.capabilities import Dialect
from router.dialects.translation import Translation
from router.endpoints import CHAT, Answers, Endpoint
from router.envelope import error_body
from router.errors import TOO_LONG, ProviderFailed, Refused, Reply, RouteFailed, StreamFailed
from router.sse import DONE, ChatStream, EventSplitter, JsonStream, payload_of
from router.upstream import Answer, Headers
from router.usage import usage_of

_ERROR_BODY = 64 << 10
_JSON = msgspec.json.Decoder()
_OK, _BAD, _SERVER_ERROR, _BAD_GATEWAY, _NO_STATUS = 200, 400, 500, 502, 600
_REFUSES_US = frozenset({401, 403})
_PROXY_REFUSES_US = 407
# What a client may learn of a provider's headers; the provider's request id gets a name of its own.
_PASSED = frozenset({b"x-should-retry"})
# What nearly every answer has and nobody behind us needs; looked up before anything else is asked.
_DROPPED = frozenset(
    {b"date", b"server", b"content-length", b"connection", b"transfer-encoding", b"keep-alive"}
)
# Anthropic has a name of its own.
_REQUEST_IDS = frozenset({b"x-request-id", b"request-id"})
_PASSED_PREFIXES = (b"x-ratelimit-", b"openai-")
# The longest that an SDK obeys; whoever says more means "not now".
_MAX_RETRY_AFTER_S = 120
_LONGEST_DIGITS = 9
# Codes for a provider's refusals in words of another protocol, by their status.
_CODE_BY_STATUS = {404: "not_found", 413: "body_too_large", 429: "queue_full"}
# How servers say that a prompt is too long for the model: OpenAI and many others, llama.cpp, vLLM.
# Only what a program is meant to read counts; words are never searched.
_TOO_LONG = (
    ("code", TOO_LONG),
    ("type", "exceed_context_size_error"),
    ("param", "input_tokens"),
)
_MAY_BE_TOO_LONG = frozenset({400, 413})
# Where servers that do not speak OpenAI's dialect put the text of an error.
_TEXT_KEYS = ("error", "detail", "message")
_MAX_TEXT = 500
_JSON_KIND = b"application/json"
_EVENTS = b"text/event-stream"
# What is text and no answer: a page, and events that nobody asked for.
_NO_TEXT = frozenset({b"text/html", _EVENTS})
_SUBTITLES = b"application/x-subrip"
_ANY_BYTES = b"application/octet-stream"


class OpenStream(msgspec.Struct, frozen=True):
    """A stream whose first event with data is at hand: what follows can only end in a frame.

    `first` are the events up to it, `pending` those that came in the same piece after it; the rest
    is still to be read from `answer`. With a `translation` the client gets what that makes of the
    events: of `first` it has been made already.
    """

    answer: Answer
    headers: tuple[tuple[bytes, bytes], ...]
    first: tuple[bytes, ...]
    pending: tuple[bytes, ...]
    splitter: EventSplitter
    state: JsonStream
    dialect: Dialect | None
    translation: Translation | None = None

    @property
    def number(self) -> int:
        """What the client's next event has, where its protocol counts them."""
        return self.state.number if self.translation is None else self.translation.number


class OpenBytes(msgspec.Struct, frozen=True):
    """An answer that is bytes, of which the first are at hand; the rest is still to be read."""

    answer: Answer
    headers: tuple[tuple[bytes, bytes], ...]
    first: bytes


class _Head(msgspec.Struct, frozen=True):
    """What matters of an answer's headers: how the body is written, and what the client may see."""

    encoding: bytes
    kind: bytes
    passed: tuple[tuple[bytes, bytes], ...]

    def as_json(self) -> tuple[tuple[bytes, bytes], ...]:
        """Return the client's headers for a body that is JSON, whatever it was called."""
        others = (pair for pair in self.passed if pair[0] != b"content-type")
        return (*others, (b"content-type", b"application/json"))


async def open_answer(
    answer: Answer,
    provider: str,
    *,
    stream: bool,
    size: int,
    is_local: bool = False,
    endpoint: Endpoint = CHAT,
    dialect: Dialect | None = None,
) -> Reply | OpenStream | OpenBytes:
    """Return the whole answer, at most `size` bytes of it, or what flows, at its beginning.

    Errors are told in `dialect`: in that of the endpoint that was asked where it is None.

    Raises RouteFailed (the codes of a provider's misbehaviour) or ProviderFailed: its own 5xx, and
    its refusal of a prompt that is too long for it, `context_length_exceeded`. Any other 4xx of a
    provider is the caller's and returned as it is. The words of a local provider that
    speaks another dialect are shown, those of others are not: they may repeat a key.
    """
    status, head, dialect = answer.status, _head_of(answer.headers), dialect or endpoint.dialect
    if _BAD <= status < _NO_STATUS:
        return await _error_answer(answer, head, provider, is_local=is_local, dialect=dialect)
    if status != _OK:
        raise _invalid(provider, f"status {status}")
    if head.encoding not in {b"", b"identity"}:
        raise _invalid(provider, "an encoding that was not asked for")
    if not _is_due(head.kind, endpoint.answers, stream=stream):
        raise _invalid(provider, f"content type {head.kind.decode('latin-1') or 'none'!r}")
    if head.kind == _EVENTS:
        return await _open_stream(answer, head, provider, endpoint, dialect)
    if endpoint.answers is Answers.BYTES:
        return await _open_bytes(answer, head, provider)
    body = await _read_whole(answer, provider, size)
    usage = None
    if head.kind == _JSON_KIND:
        try:
            usage = usage_of(_JSON.decode(body))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _invalid(provider, "a body that is not JSON") from error
    return Reply(status, head.passed, body, usage)


def _is_due(kind: bytes, answers: Answers, *, stream: bool) -> bool:
    """Tell whether an answer of this content type is one."""
    if answers is Answers.TEXT:
        # Its protocol lets a model that cannot stream answer whole, asked for a stream.
        is_text = kind.startswith(b"text/") and kind not in _NO_TEXT
        return is_text or kind in {_JSON_KIND, _SUBTITLES} or (stream and kind == _EVENTS)
    if stream:
        return kind == _EVENTS
    if answers is Answers.BYTES:
        return kind.startswith(b"audio/") or kind == _ANY_BYTES
    return kind == _JSON_KIND


async def _open_bytes(answer: Answer, head: _Head, provider: str) -> OpenBytes:
    """Read the first bytes, so that an answer without any is still a fallback."""
    first = await answer.read()
    if not first:
        raise _invalid(provider, "an empty body")
    return OpenBytes(answer, head.passed, first)


async def _open_stream(
    answer: Answer, head: _Head, provider: str, endpoint: Endpoint, dialect: Dialect | None
) -> OpenStream:
    """Read up to the first event with data, so that an error in its place is still a fallback."""
    longest = endpoint.longest_event
    splitter, state = EventSplitter(longest), (endpoint.watch or ChatStream)()
    held: list[bytes] = []
    held_bytes = 0
    while data := await answer.read():
        held_bytes += len(data)
        # What comes before the first event is held, so it has to be bounded.
        if held_bytes > 2 * longest:
            raise _invalid(provider, "a stream of nothing but comments")
        try:
            events = splitter.feed(data)
            for position, event in enumerate(events, 1):
                held.append(event)
                if not state.observe_event(event):
                    continue
                payload = payload_of(event) or b""
                if payload == DONE:
                    raise _invalid(provider, "an empty stream")
                if state.said_error:
                    raise _failed_at_once(provider, head, payload, dialect)
                pending = tuple(events[position:])
                return OpenStream(
                    answer, head.passed, tuple(held), pending, splitter, state, dialect
                )
        except StreamFailed as error:
            raise _invalid(provider, "a stream whose events are not JSON") from error
    raise _invalid(provider, "a stream that ended before its first event")


def _failed_at_once(
    provider: str, head: _Head, payload: bytes, dialect: Dialect | None
) -> ProviderFailed:
    """Return the failure of a stream that began with an error: its own words are kept."""
    told = f"{provider} began its stream with an error."
    error = _error_of(payload)
    if error is not None and _is_too_long(error):
        return _too_long(provider, Reply(_BAD, head.as_json(), payload))
    body = _in_dialect(payload, dialect) if error else _wrapped(_BAD_GATEWAY, told, dialect)
    return ProviderFailed(
        "upstream_invalid_response", told, reply=Reply(_BAD_GATEWAY, head.as_json(), body)
    )


async def _error_answer(
    answer: Answer, head: _Head, provider: str, *, is_local: bool, dialect: Dialect | None
) -> Reply:
    """Return a provider's refusal in OpenAI's shape, as it came where it has that shape."""
    status = answer.status
    if status in _REFUSES_US:
        raise RouteFailed(
            "provider_auth_error",
            f"{provider} refused the router's credentials ({status}). "
            "Check the provider's api_key in router.yaml.",
        )
    if status == _PROXY_REFUSES_US:
        raise RouteFailed(
            "upstream_unreachable",
            f"A proxy on the way to {provider} asks for credentials, and none can be given to it. "
            "Name one that needs none in the provider's proxy in router.yaml.",
        )
    body = await _error_body(answer)
    error = _error_of(body)
    if error is None:
        text = _text_of(body, head.kind) if is_local and status < _SERVER_ERROR else ""
        told = f"{provider} answered {status}" + (
            f": {text}" if text else " without an error that can be read."
        )
        body = _wrapped(status, told, dialect)
    else:
        code = error.get("code")
        named = f" ({code[:64]!r})" if isinstance(code, str) else ""
        told = f"{provider} answered {status}{named}."
        body = _in_dialect(body, dialect)
    reply = Reply(status, head.as_json(), body)
    if error is not None and status in _MAY_BE_TOO_LONG and _is_too_long(error):
        raise _too_long(provider, reply)
    if status >= _SERVER_ERROR:
        raise ProviderFailed("upstream_invalid_response", told, reply=reply)
    return reply


def _is_too_long(error: Mapping[str, Any]) -> bool:
    """Tell whether a provider's error says that the prompt does not fit into the model."""
    return any(error.get(key) == value for key, value in _TOO_LONG)


def _too_long(provider: str, reply: Reply) -> ProviderFailed:
    return ProviderFailed(
        TOO_LONG, f"{provider} has no room for a prompt of this length.", reply=reply
    )


def _wrapped(status: int, told: str, dialect: Dialect | None) -> bytes:
    """Return an error body for a provider that has none of its own."""
    server_error = status >= _SERVER_ERROR
    fallback = "upstream_invalid_response" if server_error else "invalid_request"
    return error_body(Refused(_CODE_BY_STATUS.get(status, fallback), told), dialect)


def _in_dialect(body: bytes, dialect: Dialect | None) -> bytes:
    """Return an error as the client's protocol has it: Anthropic's SDK reads one field more."""
    decoded = _decoded(body)
    if dialect is not Dialect.MESSAGES or decoded.get("type") == "error":
        return body
    return msgspec.json.encode({**decoded, "type": "error"})


def _error_of(body: bytes) -> dict[str, Any] | None:
    """Return the error object of a body in OpenAI's shape; None for any other."""
    decoded = _decoded(body)
    error = decoded.get("error") if isinstance(decoded, dict) else None
    return error if isinstance(error, dict) and error else None


def _text_of(body: bytes, kind: bytes) -> str:
    """Return what a body of another dialect says, on one line; empty for a page or for noise."""
    decoded = _decoded(body)
    text: Any = body.decode("utf-8", "ignore") if kind == b"text/plain" else ""
    if isinstance(decoded, dict):
        text = next((decoded[key] for key in _TEXT_KEYS if isinstance(decoded.get(key), str)), "")
    line = " ".join(str(text).split())
    return line[:_MAX_TEXT] if line.isprintable() else ""


def _decoded(body: bytes) -> Any:
    try:
        return _JSON.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


async def _error_body(answer: Answer) -> bytes:
    """Return an error's body; empty when it is too long to be one, of which no more is read."""
    body = bytearray()
    while data := await answer.read():
        body += data
        if len(body) > _ERROR_BODY:
            return b""
    return bytes(body)


async def _read_whole(answer: Answer, provider: str, size: int) -> bytes:
    """Return the whole body; raises RouteFailed when it has more than `size` bytes."""
    body = await answer.read()
    pieces = [body]
    total = len(body)
    while data := await answer.read() if total <= size else b"":
        total += len(data)
        pieces.append(data)
    if total > size:
        raise RouteFailed(
            "upstream_response_too_large", f"{provider} answered with more than {size} bytes."
        )
    # Most answers come in one piece, which is not copied.
    return body if len(pieces) == 1 else b"".join(pieces)


def _head_of(headers: Headers) -> _Head:
    """Return what matters of an answer's headers; the first of a name counts."""
    encoding = kind = b""
    passed = []
    for name, value in headers:
        if name in _DROPPED:
            continue
        told, known = name, value
        if name == b"content-type":
            kind = kind or value.partition(b";")[0].strip().lower()
        elif name == b"content-encoding":
            encoding = encoding or value.strip().lower()
            continue
        elif name in _REQUEST_IDS:
            told = b"x-upstream-request-id"
        elif name == b"retry-after":
            known = _retry_after(value)
        elif name not in _PASSED and not name.startswith(_PASSED_PREFIXES):
            continue
        # A value that is not plain text cannot travel in a header.
        if known and known.isascii() and known.decode().isprintable():
            passed.append((told, known))
    return _Head(encoding, kind, tuple(passed))


def _retry_after(value: bytes) -> bytes:
    """Return a provider's Retry-After in seconds, at most two minutes; empty where it is none."""
    if value.isdigit():
        seconds = int(value) if len(value) <= _LONGEST_DIGITS else _MAX_RETRY_AFTER_S
    else:
        try:
            at = parsedate_to_datetime(value.decode("ascii"))
        except ValueError:
            return b""
        if at.tzinfo is None:
            return b""
        seconds = max(0, math.ceil(at.timestamp() - time.time()))
    return b"%d" % min(seconds, _MAX_RETRY_AFTER_S)


def _invalid(provider: str, what: str) -> RouteFailed:
    return RouteFailed("upstream_invalid_response", f"{provider} answered with {what}.")
