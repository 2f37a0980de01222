"""The bus, and its events as a client of the admin API reads them."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2

from router.events import Bus, Event, Subscription
from tests.harness.children import until
from tests.harness.one_provider import DELTA, HELLO, STREAMED, one_provider
from tests.harness.running_router import RunningRouter, openai_provider, running_router, save
from tests.harness.scripted_upstream import Conversation, hello

EVENTS = "/admin/events"


async def numbers(subscription: Subscription) -> list[int]:
    """Read to the end."""
    return [event.number async for event in subscription.read(1) if event is not None]


async def test_each_reader_gets_what_happens_from_then_on() -> None:
    """Readers are told the same in the same order, until they leave or the bus is closed."""
    bus = Bus()
    bus.publish("a", {})
    with bus.subscribe() as first:
        bus.publish("b", {"x": 1})
        with bus.subscribe() as second:
            bus.publish("c", {})
        bus.publish("d", {})
        bus.close()
        assert [event async for event in first.read(1)] == [
            *(Event(2, "b", {"x": 1}), Event(3, "c", {}), Event(4, "d", {}))
        ]
    second.close()
    assert await numbers(second) == [3]
    assert repr(bus) == "<Bus 0 closed>"
    with bus.subscribe() as late:
        assert await numbers(late) == []


async def test_a_slow_reader_misses_the_oldest() -> None:
    """Nobody waits for it and it costs no memory; the numbers show the gap."""
    bus = Bus()
    with bus.subscribe() as slow:
        for _ in range(1000):
            bus.publish("a", {})
        bus.close()
        assert await numbers(slow) == list(range(1000 - 255, 1001))


async def test_a_reader_hears_that_nothing_happens() -> None:
    """None comes whenever the time is over."""
    bus = Bus()
    with bus.subscribe() as subscription:
        events = subscription.read(0.01)
        assert [await anext(events), await anext(events)] == [None, None]
        bus.publish("a", {})
        event = await anext(events)
        assert event is not None
        await events.aclose()  # type: ignore[attr-defined]  # a generator's


async def frames(answer: httpx2.Response) -> AsyncIterator[dict[str, Any]]:
    """Yield the events of a stream, and its comments."""
    text = ""
    async for piece in answer.aiter_text():
        text += piece
        *whole, text = text.split("\n\n")
        for frame in whole:
            fields = dict(line.split(": ", 1) for line in frame.splitlines())
            if "data" in fields:
                fields["data"] = json.loads(fields["data"])
            yield fields


async def test_events_are_streamed(tmp_path: Path) -> None:
    """A comment says that all is seen from now on; then each event with number, name and data."""
    async with (
        running_router(tmp_path) as signalbox,
        signalbox.client.stream("GET", EVENTS) as answer,
    ):
        assert answer.headers["content-type"].startswith("text/event-stream")
        stream = frames(answer)
        assert await anext(stream) == {"": "signalbox"}
        signalbox.router.bus.publish("backend", {"name": "mlx", "message": "a\nb ü"})
        signalbox.router.bus.publish("model_load", {"percent": 3})
        assert [await anext(stream), await anext(stream)] == [
            {"id": "1", "event": "backend", "data": {"name": "mlx", "message": "a\nb ü"}},
            {"id": "2", "event": "model_load", "data": {"percent": 3}},
        ]


async def subscribed(signalbox: RunningRouter, count: int) -> None:
    """Return when so many read events."""
    async with asyncio.timeout(5):
        while len(signalbox.router.bus._subscriptions) != count:
            await asyncio.sleep(0.005)


async def test_a_reader_that_leaves_is_forgotten(tmp_path: Path) -> None:
    """Its connection's end is seen without anything being sent."""
    async with running_router(tmp_path) as signalbox:
        async with signalbox.client.stream("GET", EVENTS):
            await subscribed(signalbox, 1)
        await subscribed(signalbox, 0)


async def test_a_reader_delays_no_stop(tmp_path: Path) -> None:
    """Its stream ends by itself as soon as the router is told to stop, whatever the grace."""
    async with (
        running_router(tmp_path, timeouts={"drain_s": 60}) as signalbox,
        signalbox.client.stream("GET", EVENTS) as answer,
        asyncio.timeout(5),
    ):
        stream = frames(answer)
        await anext(stream)
        signalbox.server.stop()
        assert [each async for each in stream] == []


async def cut(conversation: Conversation) -> None:
    """Break off within a stream, or say that something went wrong."""
    if not conversation.json.get("stream"):
        error = {"error": {"message": "no", "type": "x", "code": "y"}}
        return await conversation.answer(json.dumps(error).encode(), status=500)
    await conversation.begin_stream()
    await conversation.event(DELTA)
    return await conversation.end_stream()


async def test_each_request_that_ends_is_told_with_what_it_ended_by(tmp_path: Path) -> None:
    """As it was in flight, and the code of its error however that was told; none of its words."""
    async with one_provider(tmp_path, None, hello) as (fm, signalbox):
        async with signalbox.client.stream("GET", EVENTS) as answer:
            stream = frames(answer)
            await anext(stream)
            await signalbox.chat(HELLO, **{"x-priority": "high", "x-request-id": "r-1"})
            told = await anext(stream)
            age_s = told["data"].pop("age_s")
            assert (told["event"], age_s >= 0) == ("request", True)
            assert told["data"] == {
                "id": 1,
                "request_id": "r-1",
                "provider": "fm",
                "model": "model-1",
                "needs": ["text"],
                "priority": 1,
                "state": "ended",
                "attempts": 1,
                "error": None,
            }
            fm.script = cut
            for body, code in (
                (b"{", "invalid_json"),
                ({**HELLO, "model": "nobody"}, "model_not_found"),
                (HELLO, "upstream_invalid_response"),
                (STREAMED, "upstream_truncated"),
            ):
                await signalbox.chat(body)
                assert (await anext(stream))["data"]["error"] == code
            fm.script = lambda conversation: conversation.left()
            asking = asyncio.create_task(signalbox.chat(HELLO))
            await until(lambda: len(fm.seen) == 4)
            asking.cancel()
            assert (await anext(stream))["data"]["error"] == "client_left"
        await subscribed(signalbox, 0)
        fm.script = hello
        await signalbox.chat(HELLO)
        # With nobody there, nothing is made for nobody.
        with signalbox.router.bus.subscribe():
            signalbox.router.bus.publish("next", {})
        assert next(signalbox.router.bus._numbers) == 8


async def test_what_changes_of_the_map_is_told(tmp_path: Path) -> None:
    """The row as it is then, whoever changed it; what stays as it was is not."""
    there: dict[str, Any] = {"providers": {"p": openai_provider("http://127.0.0.1:9/v1")}}
    async with (
        running_router(tmp_path, **there) as signalbox,
        signalbox.client.stream("GET", EVENTS) as answer,
    ):
        stream = frames(answer)
        await anext(stream)
        for _ in range(2):
            await signalbox.client.put("/admin/capabilities/text", json={"models": ["p/m"]})
            told = await anext(stream)
            assert told["event"] == "capability"
            shown = (await signalbox.client.get("/admin/capabilities/text")).json()
            assert told["data"] == shown
            assert (shown["models"], shown["source"]) == (["p/m"], "stored")
            await signalbox.client.delete("/admin/capabilities/text")
            assert (await anext(stream))["data"]["state"] == "unassigned"
        save(tmp_path, **there, capabilities={"vision": ["p/m"]}, aliases={"x": "auto"})
        await signalbox.client.post("/admin/reload")
        told = await anext(stream)
        assert (told["data"]["capability"], told["data"]["source"]) == ("vision", "file")
        save(tmp_path, **there, capabilities={"vision": ["p/m"]})
        await signalbox.client.post("/admin/reload")
        signalbox.router.bus.publish("next", {})
        assert (await anext(stream))["event"] == "next"
