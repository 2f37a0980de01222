"""What the collector's threshold rests on: a request leaves no cycle, in whichever way it ends."""

import asyncio
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from router.body import JsonBody
from router.turn import Turn
from router.upstream.connection import PlainAnswer
from tests.harness.one_provider import (
    DELTA,
    DONE,
    HELLO,
    STOP,
    STREAMED,
    one_provider,
    streams,
    two_providers,
)
from tests.harness.raw_client import RawClient
from tests.harness.running_router import RunningRouter, idle, running_router
from tests.harness.scripted_upstream import Conversation, Script, hello

_ERROR = b'{"error":{"message":"no","type":"server_error","param":null,"code":null}}'
_CHAT = "/v1/chat/completions"


async def _reset(conversation: Conversation) -> None:
    conversation.reset()


async def _reset_midway(conversation: Conversation) -> None:
    await conversation.begin_stream()
    await conversation.event(DELTA)
    # The event is with the router before the end is.
    await asyncio.sleep(0.02)
    conversation.reset()


async def _silence(conversation: Conversation) -> None:
    await conversation.left()


async def _stall(conversation: Conversation) -> None:
    await conversation.begin_stream()
    await conversation.event(DELTA)
    await conversation.left()


async def _broken(conversation: Conversation) -> None:
    await conversation.send(b"nonsense")


async def _failing(conversation: Conversation) -> None:
    await conversation.answer(_ERROR, 500)


async def _refusing_us(conversation: Conversation) -> None:
    await conversation.answer(_ERROR, 401)


async def _odd(conversation: Conversation) -> None:
    await conversation.answer(b"<html>")


async def _hang_up(conversation: Conversation) -> None:
    conversation.close()


# Whatever is in a cycle with one of these is held by it too.
_OF_A_REQUEST = (JsonBody, Turn, PlainAnswer)
_UNKNOWN = {**HELLO, "model": "nobody/nothing"}
_ENDINGS: dict[str, tuple[Script, Any]] = {
    "whole": (hello, HELLO),
    "streamed": (streams(DELTA, STOP, DONE), STREAMED),
    "no such model": (hello, _UNKNOWN),
    "provider's error": (_failing, HELLO),
    "provider refuses us": (_refusing_us, HELLO),
    "not JSON": (_odd, HELLO),
    "not HTTP": (_broken, HELLO),
    "reset": (_reset, HELLO),
    "closed": (_hang_up, HELLO),
    "first byte too late": (_silence, HELLO),
    "stream reset": (_reset_midway, STREAMED),
    "stream cut": (streams(DELTA), STREAMED),
    "stream stalls": (_stall, STREAMED),
    "bad event": (streams(DELTA, b"data: {\n\n"), STREAMED),
    "bad first event": (streams(b"data: {\n\n"), STREAMED),
}


@pytest.fixture
def no_collection() -> Iterator[None]:
    """Leave cycles where they are."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def _nothing_left(signalbox: RunningRouter) -> None:
    """Return when nothing is in flight and nothing of what was is left; TimeoutError else."""
    await idle(signalbox.router)
    async with asyncio.timeout(1):
        while any(isinstance(each, _OF_A_REQUEST) for each in gc.get_objects()):
            await asyncio.sleep(0.01)


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("ending", _ENDINGS)
async def test_a_request_leaves_no_cycle_behind(tmp_path: Path, ending: str) -> None:
    """Its body is let go of at once, however it went: nobody collects it for a long while."""
    script, body = _ENDINGS[ending]
    timeouts = {"first_byte_s": 0.1, "idle_s": 0.1}
    async with one_provider(tmp_path, None, script, fm={"timeouts": timeouts}) as (_, signalbox):
        async with RawClient(signalbox.port) as client:
            await client.post(_CHAT, body, connection="close")
            await client.rest()
        await _nothing_left(signalbox)


@pytest.mark.usefixtures("no_collection")
async def test_a_route_that_failed_leaves_no_cycle_behind(tmp_path: Path) -> None:
    """Neither does the one that served the request instead."""
    async with two_providers(tmp_path, None, _failing, hello) as (_, _, signalbox):
        async with RawClient(signalbox.port) as client:
            await client.post(_CHAT, HELLO, connection="close")
            assert b" 200 OK" in await client.rest()
        await _nothing_left(signalbox)


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("body", [HELLO, STREAMED])
async def test_a_client_that_leaves_leaves_no_cycle_behind(tmp_path: Path, body: Any) -> None:
    """Its request is let go of with it."""
    arrived = asyncio.Event()

    async def script(conversation: Conversation) -> None:
        arrived.set()
        await _stall(conversation)

    async with one_provider(tmp_path, None, script) as (_, signalbox):
        async with RawClient(signalbox.port) as client:
            await client.post(_CHAT, body)
            await arrived.wait()
            client.reset()
        await _nothing_left(signalbox)


@pytest.mark.usefixtures("no_collection")
async def test_a_body_that_never_comes_leaves_no_cycle_behind(tmp_path: Path) -> None:
    """What did come of it is let go of."""
    async with running_router(tmp_path, timeouts={"body_s": 0.1}) as signalbox:
        async with RawClient(signalbox.port) as client:
            await client.post(_CHAT, b"{", content_length="2")
            assert b" 408 " in await client.rest()
        await _nothing_left(signalbox)
