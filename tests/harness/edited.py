"""A router whose configuration is edited while requests wait at a gate."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from tests.harness.children import until
from tests.harness.one_provider import DELTA, DONE, HELLO, STOP, STREAMED
from tests.harness.raw_client import RawClient
from tests.harness.running_router import RunningRouter
from tests.harness.scripted_upstream import Conversation


def gated(gate: asyncio.Event) -> Callable[[Conversation], Awaitable[None]]:
    """Return a provider that answers, streamed or not, when the gate opens."""

    async def script(conversation: Conversation) -> None:
        if not conversation.json.get("stream"):
            await gate.wait()
            await conversation.answer()
            return
        await conversation.begin_stream()
        await conversation.event(DELTA)
        await gate.wait()
        for piece in (DELTA, STOP, DONE):
            await conversation.event(piece)
        await conversation.end_stream()

    return script


async def whole(signalbox: RunningRouter, body: Any = HELLO) -> bytes:
    """Return the whole of one good answer, on a connection of its own."""
    async with RawClient(signalbox.port) as client:
        await client.post("/v1/chat/completions", body)
        status, headers = await client.head()
        assert status == 200
        return await client.body(headers)


async def stream(signalbox: RunningRouter) -> bytes:
    """Return the whole of one stream."""
    return await whole(signalbox, STREAMED)


async def reload(signalbox: RunningRouter) -> Any:
    """Have the file read again; return what is told."""
    response = await signalbox.client.post("/admin/reload")
    assert response.status_code == 200, response.text
    return response.json()


async def in_flight(signalbox: RunningRouter, number: int) -> None:
    """Return when so many requests are in flight."""
    await until(lambda: len(signalbox.router.in_flight) == number)
