"""Files that hang, as those of a network mount do whose server is gone."""

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from router.errors import RouteFailed
from router.images.readers import Readers
from router.images.rules import Rules
from router.images.sources import Sources
from tests.harness.pictures import picture

HASTY_S = 0.02


@asynccontextmanager
async def _hanging(readers: Readers, count: int = 4) -> AsyncIterator[threading.Event]:
    """Have files hang until the event that is yielded is set, or this is left."""
    go, begun = threading.Event(), threading.Semaphore(0)

    def hang() -> bytes:
        begun.release()
        go.wait()
        return b"late"

    waiting = [asyncio.create_task(readers.run(hang)) for _ in range(count)]
    try:
        ended = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(each, TimeoutError) for each in ended)
        for _ in range(count):
            assert begun.acquire(timeout=5)
        yield go
    finally:
        go.set()
        async with asyncio.timeout(5):
            while readers.busy:
                await asyncio.sleep(0.001)


async def test_who_hangs_is_given_up_and_keeps_its_place() -> None:
    """Four of them at most: a fifth never begins, and does once another has ended after all."""
    readers = Readers(HASTY_S)
    async with _hanging(readers) as go:
        begun = threading.Event()
        with pytest.raises(TimeoutError):
            await readers.run(begun.set)
        assert not begun.is_set()
        go.set()
        async with asyncio.timeout(5):
            while readers.busy == 4:
                await asyncio.sleep(0.001)
        assert await readers.run(lambda: b"read") == b"read"


async def test_who_leaves_does_not_free_the_place_of_what_hangs() -> None:
    """A client that is gone is no reason to let one file more hang."""
    mistakes: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, mistake: mistakes.append(mistake))
    readers, go = Readers(60), threading.Event()
    waiting = [asyncio.create_task(readers.run(go.wait)) for _ in range(4)]
    while readers.busy < 4:
        await asyncio.sleep(0)
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert readers.busy == 4
    go.set()
    async with asyncio.timeout(5):
        while readers.busy:
            await asyncio.sleep(0.001)
    assert not mistakes


async def test_whatever_else_is_done_in_threads_goes_on() -> None:
    """However small the loop's own pool of them is."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    async with _hanging(Readers(HASTY_S)), asyncio.timeout(5):
        assert await asyncio.to_thread(int) == 0


async def test_a_picture_that_hangs_is_as_if_it_were_missing(tmp_path: Path) -> None:
    """After its time, with a word about why; and found as soon as files are read again."""
    (tmp_path / "cat.png").write_bytes(picture())
    rules, sources = Rules(roots=(tmp_path,)), Sources(read_within_s=HASTY_S)
    async with _hanging(sources.readers) as go:
        with pytest.raises(RouteFailed) as caught:
            await sources.read(f"{tmp_path}/cat.png", rules)
        assert caught.value.code == "image_not_found"
        assert f"within {HASTY_S:g} s" in caught.value.message
        go.set()
    sources = Sources()
    assert (await sources.read(f"{tmp_path}/cat.png", rules)).media_type == "image/png"


# The mistake itself is for who reads the router's log.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_mistake_in_a_thread_is_told() -> None:
    """Nobody waits for what will never come, and the place is free again."""

    def broken() -> bytes:
        raise KeyError("a mistake")

    readers, before = Readers(5), set(threading.enumerate())
    with pytest.raises(RuntimeError, match="broke off"):
        await readers.run(broken)
    assert readers.busy == 0
    # It says so at its very end, which comes after.
    for thread in set(threading.enumerate()) - before:
        thread.join()
