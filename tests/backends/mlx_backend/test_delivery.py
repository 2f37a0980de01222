import asyncio
import threading
from collections.abc import Callable
from contextvars import Context
from functools import partial
from typing import TypeVarTuple

from backends.mlx_backend.delivery import Delivery

_Given = TypeVarTuple("_Given")


class CountedLoop(asyncio.SelectorEventLoop):
    """Counts how often another thread wakes it."""

    woken = 0

    def call_soon_threadsafe(
        self, callback: Callable[[*_Given], object], *args: *_Given, context: Context | None = None
    ) -> asyncio.Handle:
        """Count it."""
        self.woken += 1
        return super().call_soon_threadsafe(callback, *args, context=context)


def delivered(post: Callable[[Delivery, Callable[[int], Callable[[], None]]], None]) -> list[int]:
    """Run `post` on another thread; return what was delivered, after how often the loop woke."""
    loop, delivery, seen = CountedLoop(), Delivery(), list[int]()

    async def run() -> None:
        delivery.open()
        thread = threading.Thread(
            target=post, args=(delivery, lambda one: partial(seen.append, one))
        )
        thread.start()
        async with asyncio.timeout(5):
            while thread.is_alive() or loop.woken == 0:
                await asyncio.sleep(0.001)
        await asyncio.sleep(0)

    try:
        loop.run_until_complete(run())
    finally:
        loop.close()
    return [loop.woken, *seen]


def test_what_is_posted_together_wakes_the_loop_once() -> None:
    """A step that tells sixteen answers something wakes the event loop once, in order."""

    def step(delivery: Delivery, note: Callable[[int], Callable[[], None]]) -> None:
        with delivery.together():
            for one in range(16):
                delivery.post(note(one))

    assert delivered(step) == [1, *range(16)]


def test_what_is_posted_alone_is_not_held() -> None:
    """Outside of a step, and from another thread during one, the loop hears of it at once."""

    def posts(delivery: Delivery, note: Callable[[int], Callable[[], None]]) -> None:
        delivery.post(note(0))
        came = threading.Event()
        with delivery.together():
            other = threading.Thread(target=delivery.post, args=(came.set,))
            other.start()
            in_time = came.wait(2)
            other.join()
        delivery.post(note(1 if in_time else -1))

    assert delivered(posts)[1:] == [0, 1]


def test_nothing_to_tell_wakes_nobody() -> None:
    """A step that says nothing costs the event loop nothing."""

    def idle(delivery: Delivery, note: Callable[[int], Callable[[], None]]) -> None:
        for _ in range(5):
            with delivery.together():
                pass
        delivery.post(note(7))

    assert delivered(idle) == [1, 7]


def test_a_loop_that_is_closed_is_no_failure() -> None:
    """The process stops before a long step has ended: nobody is left to hear of it."""
    delivery = Delivery()

    async def opened() -> None:
        delivery.open()

    asyncio.run(opened())
    delivery.post(lambda: None)
    assert repr(delivery) == "<Delivery posted=1 held=False>"
