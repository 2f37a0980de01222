"""The server's protocol class: what it refuses, what it bounds, and that it never hangs."""

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.harness.raw_client import RawClient
from tests.harness.running_router import RunningRouter, openai_provider, running_router
from tests.harness.scripted_upstream import Conversation, ScriptedUpstream

HELLO = b'{"model":"text","messages":[{"role":"user","content":"hello"}]}'
NEXT = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
)
POST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
)


def _bound(fm: ScriptedUpstream, **more: Any) -> dict[str, Any]:
    return {
        "providers": {"fm": openai_provider(fm.url)},
        "capabilities": {"text": ["fm/model-1"]},
        **more,
    }


def _whole(extra: bytes = b"") -> bytes:
    return POST + extra + b"Content-Length: %d\r\n\r\n" % len(HELLO) + HELLO


def _chunked(body: bytes) -> bytes:
    return POST + b"Transfer-Encoding: chunked\r\n\r\n" + body


AMBIGUOUS = {
    "length and coding": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "coding and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "unknown coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "further coding": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "two codings": POST
    + b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "coding in HTTP/1.0": POST.replace(b"1.1", b"1.0")
    + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "no line end after a chunk": _chunked(b"5\r\nhelloXX0\r\n\r\n"),
    "bare LF after a chunk's size": _chunked(b"5\nhello\r\n0\r\n\r\n"),
    "bare LF": POST + b"X: a\nContent-Length: 0\r\n\r\n",
    "bare CR": POST + b"X: a\rContent-Length: 0\r\n\r\n",
    "signed length": POST + b"Content-Length: +5\r\n\r\nhello",
    "list of lengths": POST + b"Content-Length: 5, 5\r\n\r\nhello",
    "empty length": POST + b"Content-Length: \r\n\r\n",
    "folded header": POST + b"X: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "blank before the colon": POST + b"X : a\r\n\r\n",
    "NUL": POST + b"X: a\0b\r\n\r\n",
    "method that is none": b"PO(ST / HTTP/1.1\r\nHost: a\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "unknown version": b"GET / HTTP/1.7\r\nHost: a\r\n\r\n",
    "authority that is not the host": b"GET http://evil/health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "tunnel": b"CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "long extension of a chunk": _chunked(b"5;" + b"a" * 2_000_000),
    "trailers without end": _chunked(b"0\r\n" + b"X-Trailer: abcdefgh\r\n" * 100_000),
    "long URL": b"GET /" + b"a" * 65_536 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
}


async def _refused(signalbox: RunningRouter, data: bytes) -> tuple[int, dict[str, Any]]:
    """Send bytes and a good request behind them; return the one answer that comes before EOF."""
    async with RawClient(signalbox.port) as client:
        await client.send(data)
        status, headers = await client.head()
        body = await client.body(headers)
        assert await client.rest() == b""
    assert headers["content-type"] == "application/json"
    assert headers["connection"] == "close"
    assert headers["x-request-id"]
    return status, json.loads(body)["error"]


@pytest.mark.parametrize("name", AMBIGUOUS)
async def test_row_20_what_could_be_misread_is_refused(tmp_path: Path, name: str) -> None:
    """Ambiguous HTTP gets one 400 in our shape, and nothing behind it is ever looked at."""
    async with ScriptedUpstream() as fm, running_router(tmp_path, **_bound(fm)) as signalbox:
        status, error = await _refused(signalbox, AMBIGUOUS[name] + _whole())
    assert (status, error["code"]) == (400, "invalid_request")
    assert fm.seen == []


@pytest.mark.parametrize(
    "head",
    [b"X: " + b"a" * 80_000, b"\r\n".join(b"X-%d: a" % number for number in range(1_000))],
    ids=["one of 80 KB", "a thousand"],
)
async def test_row_13_large_heads_are_refused(tmp_path: Path, head: bytes) -> None:
    """A head over the limit, by bytes or by headers, is told so and its connection closed."""
    async with running_router(tmp_path) as signalbox:
        status, error = await _refused(signalbox, POST + head + b"\r\n\r\n")
    assert (status, error["code"]) == (431, "headers_too_large")


async def test_row_13_a_head_without_end_is_refused_while_it_comes(tmp_path: Path) -> None:
    """Nobody waits for the end of a head that is too large already."""
    async with running_router(tmp_path) as signalbox:
        status, error = await _refused(signalbox, POST + b"X: " + b"a" * 80_000)
    assert (status, error["code"]) == (431, "headers_too_large")


async def test_row_22_a_slow_header_is_cut_off_and_others_are_served(tmp_path: Path) -> None:
    """Bytes that trickle in do not keep a connection beyond the deadline for its head."""
    timeouts = {"header_s": 0.2}
    async with (
        ScriptedUpstream() as fm,
        running_router(tmp_path, **_bound(fm, timeouts=timeouts)) as signalbox,
        AsyncExitStack() as stack,
    ):
        clients = [await stack.enter_async_context(RawClient(signalbox.port)) for _ in range(20)]
        trickled = 0
        for byte in POST:
            if all(client._reader._eof for client in clients):  # type: ignore[attr-defined]
                break
            for client in clients:
                await client.send(bytes([byte]))
            trickled += 1
            assert (await signalbox.chat(HELLO)).status_code == 200
            await asyncio.sleep(0.02)
        for client in clients:
            assert (await client.head())[0] == 408
    assert trickled < len(POST)


async def test_row_24_a_client_that_says_nothing_is_sent_away(tmp_path: Path) -> None:
    """A connection on which no request begins is closed at the same deadline, without a word."""
    async with (
        running_router(tmp_path, timeouts={"header_s": 0.1}) as signalbox,
        AsyncExitStack() as stack,
    ):
        clients = [await stack.enter_async_context(RawClient(signalbox.port)) for _ in range(100)]
        for client in clients:
            assert await client.rest() == b""


async def test_row_23_a_slow_body_is_told_and_holds_no_place(tmp_path: Path) -> None:
    """408 and close at the body's deadline; meanwhile the one place is free for others."""
    sections = {"timeouts": {"body_s": 0.2}, "lanes": {"default": {"concurrency": 1, "queue": 0}}}
    async with (
        ScriptedUpstream() as fm,
        running_router(tmp_path, **_bound(fm, **sections)) as signalbox,
        RawClient(signalbox.port) as client,
    ):
        await client.send(POST + b"Content-Length: 1048576\r\n\r\n{")
        assert (await signalbox.chat(HELLO)).status_code == 200
        status, headers = await client.head()
        assert status == 408
        assert headers["connection"] == "close"
        assert json.loads(await client.body(headers))["error"]["code"] == "request_timeout"
        assert await client.rest() == b""


async def test_row_32_a_client_that_does_not_read_is_cut_off(tmp_path: Path) -> None:
    """The provider is made to wait, and after the stall deadline both ends are let go."""
    event = b'data: {"choices":[{"index":0,"delta":{"content":"' + b"x" * 65_000 + b'"}}]}\n\n'
    sent = 0
    left = asyncio.Event()

    async def script(conversation: Conversation) -> None:
        nonlocal sent
        await conversation.begin_stream()
        try:
            for _ in range(1_600):
                await conversation.event(event)
                sent += len(event)
        finally:
            left.set()

    timeouts = {"send_stall_s": 0.3}
    async with (
        ScriptedUpstream(script) as fm,
        running_router(tmp_path, **_bound(fm, timeouts=timeouts)) as signalbox,
        RawClient(signalbox.port) as client,
    ):
        await client.post("/v1/chat/completions", json.loads(HELLO) | {"stream": True})
        await client.head()
        async with asyncio.timeout(10):
            await left.wait()
    # What fits into two pairs of socket buffers, and no more, was ever taken from the provider.
    assert sent < 40_000_000


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("upgrade", [b"websocket", b"h2c"])
async def test_a_wish_to_switch_protocols_is_ignored(
    tmp_path: Path, method: str, upgrade: bytes
) -> None:
    """The request is served as if it had not been said: at once, body and all."""
    wish = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: " + upgrade + b"\r\n"
    wish += b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n"
    get = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n" + wish + b"\r\n"
    async with (
        ScriptedUpstream() as fm,
        running_router(tmp_path, **_bound(fm)) as signalbox,
        RawClient(signalbox.port) as client,
    ):
        # Twice, so that it is seen that the connection can go on.
        for _ in range(2):
            await client.send(get if method == "GET" else _whole(wish))
            status, headers = await client.head()
            await client.body(headers)
            assert status == 200


async def test_row_34_pipelined_requests_are_answered_in_order(tmp_path: Path) -> None:
    """The second one is neither lost nor mixed up with the first, bad as that may be."""

    async def script(conversation: Conversation) -> None:
        name = json.loads(conversation.body)["user"]
        await conversation.answer(json.dumps({"you": name}).encode())

    def one(name: str) -> bytes:
        body = json.dumps({**json.loads(HELLO), "user": name}).encode()
        return POST + b"Content-Length: %d\r\n\r\n" % len(body) + body

    bad = POST + b"Content-Length: 1\r\n\r\n{"
    async with (
        ScriptedUpstream(script) as fm,
        running_router(tmp_path, **_bound(fm)) as signalbox,
        RawClient(signalbox.port) as client,
    ):
        await client.send(one("a") + bad + one("b"))
        found = []
        for _ in range(3):
            status, headers = await client.head()
            found.append((status, json.loads(await client.body(headers)).get("you")))
    assert found == [(200, "a"), (400, None), (200, "b")]


async def test_row_35_a_body_that_is_too_large_is_never_asked_for(tmp_path: Path) -> None:
    """A client that waits to be asked hears 413, and never 100."""
    async with running_router(tmp_path, limits={"body_mb": 1}) as signalbox:
        status, error = await _refused(
            signalbox, POST + b"Expect: 100-continue\r\nContent-Length: 2000000\r\n\r\n"
        )
    assert (status, error["code"]) == (413, "body_too_large")


async def test_row_35_a_body_that_is_welcome_is_asked_for(tmp_path: Path) -> None:
    """A client that waits to be asked is, and then answered."""
    async with (
        ScriptedUpstream() as fm,
        running_router(tmp_path, **_bound(fm)) as signalbox,
        RawClient(signalbox.port) as client,
    ):
        length = b"Content-Length: %d\r\n\r\n" % len(HELLO)
        await client.send(POST + b"Expect: 100-continue\r\n" + length)
        assert (await client.head())[0] == 100
        await client.send(HELLO)
        assert (await client.head())[0] == 200


async def test_an_answer_given_early_reaches_a_client_that_is_still_sending(tmp_path: Path) -> None:
    """The connection is not reset over what the client has yet to send."""
    async with (
        running_router(tmp_path, limits={"body_mb": 1}) as signalbox,
        RawClient(signalbox.port) as client,
    ):
        await client.send(_chunked(b""))
        for _ in range(40):
            await client.send(b"ffff\r\n" + b"x" * 65_535 + b"\r\n")
        status, headers = await client.head()
        assert status == 413
        assert json.loads(await client.body(headers))["error"]["code"] == "body_too_large"


async def test_http_1_0_is_answered_and_closed(tmp_path: Path) -> None:
    """An old client gets its answer by the end of the connection."""
    async with running_router(tmp_path) as signalbox, RawClient(signalbox.port) as client:
        await client.send(b"GET /health HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
        status, headers = await client.head()
        assert status == 200
        assert headers["connection"] == "close"
        assert json.loads(await client.rest()) == {"status": "ok"}


async def test_a_body_in_small_chunks_is_taken(tmp_path: Path) -> None:
    """The framing of many small chunks is not taken for an attack."""
    pieces = b"".join(b"%x\r\n%b\r\n" % (1, bytes([byte])) for byte in HELLO + b" " * 20_000)
    async with (
        ScriptedUpstream() as fm,
        running_router(tmp_path, **_bound(fm)) as signalbox,
        RawClient(signalbox.port) as client,
    ):
        await client.send(_chunked(pieces + b"0\r\nX-Trailer: a\r\n\r\n"))
        assert (await client.head())[0] == 200
