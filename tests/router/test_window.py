"""How much of a prompt an Ollama reads, as it tells itself."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from router.catalog import Kind, Locality, Provider
from router.upstream.plain import PlainUpstream
from router.window import Windows
from tests.harness.scripted_upstream import Conversation, Script, ScriptedUpstream

LOADED = {"models": [{"model": "small:latest", "context_length": 128}]}


class Clock:
    """Seconds that pass when told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def ps(conversation: Conversation) -> None:
    """Tell what is loaded."""
    await conversation.answer(json.dumps(LOADED).encode())


@asynccontextmanager
async def asking(
    script: Script = ps, within_s: float = 10
) -> AsyncIterator[tuple[ScriptedUpstream, Windows, Clock]]:
    """Hold the windows of an Ollama that does as scripted."""
    async with ScriptedUpstream(script) as fm:
        provider = Provider("o", Kind.OLLAMA, fm.url, Locality.LOCAL, api_key="k")
        upstream, clock = PlainUpstream("o", connect_s=1), Clock()
        try:
            yield fm, Windows(provider, upstream, clock=clock, within_s=within_s), clock
        finally:
            await upstream.aclose()


async def test_a_window_is_asked_for_once_a_minute() -> None:
    """By either of a model's names, and with the provider's key; a minute later it is unknown."""
    async with asking() as (fm, windows, clock):
        assert windows.known("small") is None
        assert await windows.of("small", 10) == 128
        assert (fm.seen[0].target, fm.seen[0].headers["authorization"]) == ("/api/ps", "Bearer k")
        clock.now += 59
        assert await windows.of("small:latest", 128) == 128
        assert windows.known("small") == 128
        assert len(fm.seen) == 1
        clock.now += 2
        assert windows.known("small") is None
        assert await windows.of("small", 10) == 128
        assert len(fm.seen) == 2
        assert "128" in repr(windows)


async def test_a_prompt_that_may_be_larger_is_judged_by_the_window_of_now() -> None:
    """Who has just raised the window is not refused by what was remembered of it."""
    async with asking() as (fm, windows, clock):
        assert await windows.of("small", 10) == 128
        clock.now += 1
        LOADED["models"][0]["context_length"] = 4096
        try:
            assert await windows.of("small", 129) == 4096
        finally:
            LOADED["models"][0]["context_length"] = 128
        assert len(fm.seen) == 2


async def test_a_model_that_is_not_loaded_has_no_window() -> None:
    """It is asked for again by the next request: it may be loaded by then."""
    async with asking() as (fm, windows, clock):
        for _ in range(2):
            assert await windows.of("other", 10) is None
            clock.now += 1
        assert len(fm.seen) == 2


async def test_one_at_a_time_asks() -> None:
    """Whoever comes meanwhile waits for the answer, and for one more at most."""
    gate = asyncio.Event()

    async def wait(conversation: Conversation) -> None:
        await gate.wait()
        await ps(conversation)

    async with asking(wait) as (fm, windows, clock), asyncio.TaskGroup() as tasks:
        first = tasks.create_task(windows.of("small", 10))
        while not fm.seen:
            await asyncio.sleep(0)
        clock.now += 1
        others = [tasks.create_task(windows.of("small", size)) for size in (10, 500, 500, 500)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in others)
        gate.set()
        assert [await task for task in (first, *others)] == [128] * 5
        assert len(fm.seen) == 2


async def hang(conversation: Conversation) -> None:
    """Say nothing until the router leaves."""
    await conversation.left()


def says(status: int, body: bytes) -> Script:
    """Return the script of a server that says this."""
    return lambda conversation: conversation.answer(body, status=status)


@pytest.mark.parametrize(
    "script",
    [hang, says(500, b"{}"), says(200, b"no"), says(200, b"{}"), says(200, b" " * 2_000_000)],
)
async def test_who_does_not_tell_is_left_in_peace(script: Script) -> None:
    """The window is unknown, which is no error; ten seconds later it is asked for again."""
    async with asking(script, within_s=0.05) as (fm, windows, clock):
        for _ in range(3):
            assert await windows.of("small", 1000) is None
            clock.now += 4
        assert len(fm.seen) == 1
        assert await windows.of("small", 1000) is None
        assert len(fm.seen) == 2


async def test_who_leaves_while_asking_leaves_it_to_the_next() -> None:
    """Nothing is taken to be known, nor to be silent."""
    async with asking(hang) as (fm, windows, _):
        task = asyncio.create_task(windows.of("small", 10))
        while not fm.seen:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        fm.script = ps
        assert await windows.of("small", 10) == 128
