"""All request bytes held together: bounded, counted as they arrive, and given back in every way."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from router.body import Buffered
from router.errors import ClientGone, Refused
from router.request import read_body
from router.settings import SettingsError
from tests.harness.raw_client import RawClient
from tests.harness.running_router import RunningRouter, openai_provider, running_router
from tests.harness.scripted_upstream import Conversation, ScriptedUpstream

MB = 1_000_000
CHAT = "/v1/chat/completions"


def _weighing(size: int) -> bytes:
    """Return a chat request of exactly so many bytes."""
    start, end = b'{"model":"text","messages":[{"role":"user","content":"', b'"}]}'
    return start + b"x" * (size - len(start) - len(end)) + end


def _small(upstream: ScriptedUpstream) -> dict[str, Any]:
    """Return settings in which all requests together may weigh one megabyte."""
    return {
        "providers": {"fm": openai_provider(upstream.url)},
        "capabilities": {"text": ["fm/m"]},
        "limits": {"body_mb": 1, "buffered_mb": 1},
    }


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(2):
        while not condition():
            await asyncio.sleep(0.001)


async def _post_part(client: RawClient, length: int, part: bytes) -> None:
    """Announce a body of some length and send the first part of it."""
    head = (
        f"POST {CHAT} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        f"content-length: {length}\r\n\r\n"
    )
    await client.send(head.encode() + part)


def _held(signalbox: RunningRouter) -> int:
    return signalbox.router.buffered.held


async def test_requests_that_together_weigh_too_much_are_told_to_come_back(tmp_path: Path) -> None:
    """What finds no room is refused with Retry-After and a closed connection; small ones pass."""
    arrived, free = asyncio.Event(), asyncio.Event()

    async def script(conversation: Conversation) -> None:
        if len(conversation.body) > MB // 2:
            arrived.set()
            await free.wait()
        await conversation.answer()

    async with ScriptedUpstream(script) as fm, running_router(tmp_path, **_small(fm)) as signalbox:
        first = asyncio.create_task(signalbox.chat(_weighing(900_000)))
        await arrived.wait()
        assert _held(signalbox) == 900_000
        refused = await signalbox.chat(_weighing(100_001))
        assert (await signalbox.chat(_weighing(100_000))).status_code == 200
        free.set()
        assert (await first).status_code == 200
        await _until(lambda: _held(signalbox) == 0)
        assert (await signalbox.chat(_weighing(MB))).status_code == 200
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
    assert refused.headers["retry-after"] == "1"
    assert refused.headers["connection"] == "close"
    assert len(fm.seen) == 3


async def test_an_announced_length_takes_no_room(tmp_path: Path) -> None:
    """A client that promises a large body and sends little of it keeps nobody else out."""
    async with (
        ScriptedUpstream() as fm,
        running_router(tmp_path, **_small(fm)) as signalbox,
        RawClient(signalbox.port) as slow,
    ):
        await _post_part(slow, MB, b"{" * 1000)
        await _until(lambda: _held(signalbox) == 1000)
        assert (await signalbox.chat(_weighing(900_000))).status_code == 200


async def test_a_body_of_which_nothing_arrives_times_out(tmp_path: Path) -> None:
    """The clock runs for the first byte of a body as it does for the last."""
    timeouts = {"body_s": 0.1}
    async with (
        running_router(tmp_path, timeouts=timeouts) as signalbox,
        RawClient(signalbox.port) as client,
    ):
        await _post_part(client, 100, b"")
        async with asyncio.timeout(2):
            status, headers = await client.head()
            assert (status, headers["connection"]) == (408, "close")
            await client.body(headers)
            assert await client.rest() == b""


async def test_a_client_that_leaves_within_its_body_gives_its_room_back(tmp_path: Path) -> None:
    """A body that will never be whole is let go with its connection."""
    async with (
        ScriptedUpstream() as fm,
        running_router(tmp_path, **_small(fm)) as signalbox,
        RawClient(signalbox.port) as leaver,
    ):
        await _post_part(leaver, MB, b"x" * 1000)
        await _until(lambda: _held(signalbox) == 1000)
        leaver.reset()
        await _until(lambda: _held(signalbox) == 0)


async def test_the_control_planes_bodies_are_counted_too(tmp_path: Path) -> None:
    """Where a large body goes makes no difference."""
    async with (
        ScriptedUpstream() as fm,
        running_router(tmp_path, **_small(fm)) as signalbox,
        RawClient(signalbox.port) as slow,
    ):
        await _post_part(slow, MB, b"x" * 500_000)
        await _until(lambda: _held(signalbox) == 500_000)
        response = await signalbox.client.post(
            "/admin/explain", json={"body": {"messages": ["x" * 600_000]}}
        )
        assert (response.status_code, response.json()["error"]["code"]) == (429, "queue_full")
        assert (await signalbox.client.post("/admin/explain", json={"body": {}})).status_code == 200


async def test_a_buffer_that_no_full_request_fits_in_is_refused_at_the_start(
    tmp_path: Path,
) -> None:
    """A body that the limits allow must find room some time."""
    with pytest.raises(SettingsError, match=r"limits\.buffered_mb: 1 is less than"):
        async with running_router(tmp_path, limits={"body_mb": 2, "buffered_mb": 1}):
            raise AssertionError("the router started")


def _messages(*parts: bytes, gate: asyncio.Event | None = None) -> Callable[[], Awaitable[Any]]:
    """Return a receiving end that has these parts, the first of them behind a gate if any."""
    waiting = list(parts)

    async def receive() -> Any:
        if gate is not None:
            await gate.wait()
        if not waiting:
            return {"type": "http.disconnect"}
        body = waiting.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(waiting)}

    return receive


async def test_a_body_that_is_there_is_read_without_a_clock() -> None:
    """The event loop is not asked for a timer, nor given a turn."""
    loop = asyncio.get_running_loop()
    turns = 0

    def turn() -> None:
        nonlocal turns
        turns += 1

    loop.call_soon(turn)
    with Buffered(10).share() as share:
        assert await read_body(_messages(b"ab", b"", b"c"), 10, 0.0, share) == b"abc"
    assert turns == 0


async def test_a_body_that_is_waited_for_arrives_whole() -> None:
    """Whatever comes after the first wait is read as the first part was."""
    gate = asyncio.Event()
    with Buffered(10).share() as share:
        reading = asyncio.create_task(read_body(_messages(b"ab", b"c", gate=gate), 10, 5, share))
        await asyncio.sleep(0)
        gate.set()
        assert await reading == b"abc"


@pytest.mark.parametrize("cancelled", [True, False])
async def test_reading_ends_by_its_deadline_and_by_cancellation(cancelled: bool) -> None:
    """Either way the receiving end is let go of, and the caller's task goes on or ends."""
    buffered, left = Buffered(10), asyncio.Event()

    async def receive() -> Any:
        try:
            await asyncio.Event().wait()
        finally:
            left.set()

    async def read() -> bytes:
        with buffered.share() as share:
            share.add(3)
            return await read_body(receive, 10, 0.05, share)

    reading = asyncio.create_task(read())
    await asyncio.sleep(0)
    if cancelled:
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
    else:
        with pytest.raises(Refused) as refusal:
            await reading
        assert refusal.value.code == "request_timeout"
    assert left.is_set()
    assert buffered.held == 0


async def test_a_client_that_left_is_no_empty_body() -> None:
    """A disconnect while reading is told as what it is."""
    with Buffered(10).share() as share, pytest.raises(ClientGone):
        await read_body(_messages(), 10, 1, share)


def test_the_state_of_a_buffer_is_shown() -> None:
    """Its repr tells what is held of how much."""
    buffered = Buffered(10)
    with buffered.share() as share:
        share.add(4)
        assert repr(buffered) == "<Buffered 4 of 10 bytes>"
        with pytest.raises(Refused) as refusal:
            share.add(7)
    assert json.loads(refusal.value.body())["error"]["type"] == "rate_limit_error"
    assert repr(buffered) == "<Buffered 0 of 10 bytes>"
