"""Threads that read files, each of which may hang: on a network mount whose server is gone.

They are of their own, so that whatever else is done in threads goes on; few, since one that hangs
cannot be ended; and the end of the process waits for none of them.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import Final, TypeVar

from router.errors import RouteFailed

T = TypeVar("T")
_PLACES: Final = 4


class Readers:
    """Reads a few files at a time; who hangs keeps the place until it has ended after all.

    `within_s` is what a file may take, in seconds, with the wait for a place. `busy` counts those
    that have one.
    """

    def __init__(self, within_s: float) -> None:
        self.within_s = within_s
        self.busy = 0
        self._places = asyncio.Semaphore(_PLACES)

    def __repr__(self) -> str:
        return f"<Readers busy={self.busy}>"

    async def run(self, read: Callable[[], T]) -> T:
        """Return what `read` does; raises its RouteFailed, TimeoutError where it takes too long."""
        async with asyncio.timeout(self.within_s):
            await self._places.acquire()
            self.busy += 1
            loop = asyncio.get_running_loop()
            done: asyncio.Future[T] = loop.create_future()
            try:
                Thread(target=self._work, args=(loop, done, read), daemon=True).start()
            except RuntimeError:
                self._leave()
                raise
            return await done

    def _work(
        self,
        loop: asyncio.AbstractEventLoop,
        done: asyncio.Future[T],
        read: Callable[[], T],
    ) -> None:
        outcome: T | Exception = RuntimeError("reading a file broke off")
        try:
            outcome = read()
        except RouteFailed as failure:
            outcome = failure
        finally:
            # The loop may have been closed meanwhile.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._finish, done, outcome)

    def _finish(self, done: asyncio.Future[T], outcome: T | Exception) -> None:
        self._leave()
        if done.done():
            # Nobody waits for it any more.
            return
        if isinstance(outcome, Exception):
            done.set_exception(outcome)
        else:
            done.set_result(outcome)

    def _leave(self) -> None:
        self.busy -= 1
        self._places.release()
