"""What the server's protocol class takes; what it refuses and bounds is in tests/faults."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.harness.raw_client import RawClient
from tests.harness.running_router import openai_provider, running_router
from tests.harness.scripted_upstream import ScriptedUpstream

HELLO = b'{"model":"text","messages":[{"role":"user","content":"hello"}]}'
POST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
)
LENGTH = b"Content-Length: %d\r\n\r\n" % len(HELLO) + HELLO


def _bound(fm: ScriptedUpstream, **more: Any) -> dict[str, Any]:
    return {
        "providers": {"fm": openai_provider(fm.url)},
        "capabilities": {"text": ["fm/model-1"]},
        **more,
    }


def _whole(extra: bytes = b"") -> bytes:
    return POST + extra + LENGTH


def _chunked(body: bytes) -> bytes:
    return POST + b"Transfer-Encoding: chunked\r\n\r\n" + body


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


async def test_what_is_refused_is_refused_with_a_wish_to_switch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The client is told why, and nothing is logged as a failure of ours."""
    wish = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    async with running_router(tmp_path) as signalbox, RawClient(signalbox.port) as client:
        await client.send(b"GET http://evil/ HTTP/1.1\r\nHost: 127.0.0.1\r\n" + wish + b"\r\n")
        status, headers = await client.head()
        assert status == 400
        assert json.loads(await client.body(headers))["error"]["code"] == "invalid_request"
    assert caplog.records == []


async def test_an_old_client_that_wishes_to_switch_is_still_an_old_one(tmp_path: Path) -> None:
    """It is answered as its version wants it, and held to what that version has."""
    wish = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    old = POST.replace(b"HTTP/1.1", b"HTTP/1.0")
    chunked = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(HELLO), HELLO)
    async with ScriptedUpstream() as fm, running_router(tmp_path, **_bound(fm)) as signalbox:
        for request, status in ((old + wish + chunked, b"400"), (old + wish + LENGTH, b"200")):
            async with RawClient(signalbox.port) as client:
                await client.send(request)
                answer = await client.rest()
                assert answer.split(b" ")[1] == status
                assert b"connection: close" in answer
        assert len(fm.seen) == 1


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
