"""Waiting for a place in a lane, held by `async with` and given back by leaving it."""

import asyncio
import time
from types import TracebackType
from typing import Self

from router.errors import RouteFailed
from router.lane import Lane, Verdict

# Nothing is known of how long the requests ahead will take; a second is polite and short.
_RETRY_AFTER_S = 1.0


class Admission:
    """The lane of one provider. `queue_s` bounds how long a request waits in it."""

    def __init__(self, provider: str, concurrency: int, queue: int, queue_s: float) -> None:
        self.provider = provider
        self.queue_s = queue_s
        self.lane: Lane[Place] = Lane(concurrency, queue)

    def __repr__(self) -> str:
        return f"<Admission {self.provider} {self.lane!r}>"

    def place(self) -> "Place":
        """Return a place to be entered by one request."""
        return Place(self)


class Place:
    """One request's place in a lane. `waited_s` says how long it took to get it."""

    __slots__ = ("_admission", "_turn", "waited_s")

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        # Only who waits needs to be told.
        self._turn: asyncio.Future[None] | None = None
        self.waited_s = 0.0

    async def __aenter__(self) -> Self:
        """Wait for the place.

        Raises RouteFailed `queue_full` at once, or `queue_timeout` after `queue_s`.
        """
        admission = self._admission
        verdict = admission.lane.enter(self)
        if verdict is Verdict.REFUSED:
            raise RouteFailed(
                "queue_full",
                f"{admission.lane.waiting} requests are waiting for {admission.provider} already.",
                retry_after_s=_RETRY_AFTER_S,
            )
        if verdict is Verdict.WAIT:
            await self._wait()
        return self

    async def _wait(self) -> None:
        admission = self._admission
        since = time.monotonic()
        self._turn = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(admission.queue_s):
                await self._turn
        except TimeoutError:
            self._leave()
            raise RouteFailed(
                "queue_timeout",
                f"{admission.provider} had no place free within {admission.queue_s:g} s.",
                retry_after_s=_RETRY_AFTER_S,
            ) from None
        except BaseException:
            self._leave()
            raise
        self.waited_s = time.monotonic() - since

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the place to the next in line."""
        self._leave()

    def _leave(self) -> None:
        successor = self._admission.lane.leave(self)
        if successor is not None:
            successor.proceed()

    def proceed(self) -> None:
        """End the wait: the place is ours."""
        # Who is being cancelled at this moment leaves by itself and passes the place on.
        if self._turn is not None and not self._turn.done():
            self._turn.set_result(None)
