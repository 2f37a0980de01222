"""Waiting for a place in a lane, held by `async with` and given back by leaving it."""

import asyncio
import time
from types import TracebackType
from typing import Self

from backends.wire import Priority
from router.errors import RouteFailed
from router.lane import Lane, Verdict

# While nothing is known of how long a request takes, a second is polite and short.
_AT_LEAST_S = 1.0
# The longest that the SDKs obey.
_AT_MOST_S = 120.0
# How much of what is known of the time a request takes is due to the last one.
_NEWEST = 0.1


class Admission:
    """The lane of one provider. `queue_s` bounds how long a request waits in it."""

    def __init__(
        self, provider: str, concurrency: int, queue: int, reserve_high: int, queue_s: float
    ) -> None:
        self.provider = provider
        self.queue_s = queue_s
        self.lane: Lane[Place] = Lane(concurrency, queue, reserve_high)
        self._concurrency = concurrency
        self._service_s: float | None = None

    def __repr__(self) -> str:
        return f"<Admission {self.provider} {self.lane!r}>"

    def place(self, priority: Priority) -> "Place":
        """Return a place to be entered by one request."""
        return Place(self, priority)

    def has_served(self, seconds: float) -> None:
        """Take note of how long a request held its place."""
        known = self._service_s
        self._service_s = seconds if known is None else known + _NEWEST * (seconds - known)

    @property
    def retry_after_s(self) -> float:
        """How long it should take until those who wait now have had their turn, in seconds."""
        if self._service_s is None:
            return _AT_LEAST_S
        turns = (self.lane.waiting + 1) / self._concurrency
        return min(max(turns * self._service_s, _AT_LEAST_S), _AT_MOST_S)


class Place:
    """One request's place in a lane. `waited_s` says how long it took to get it."""

    __slots__ = ("_admission", "_priority", "_since", "_turn", "waited_s")

    def __init__(self, admission: Admission, priority: Priority) -> None:
        self._admission = admission
        self._priority = priority
        # Only who waits needs to be told: that it may go, or that its place is lost.
        self._turn: asyncio.Future[bool] | None = None
        self._since = 0.0
        self.waited_s = 0.0

    async def __aenter__(self) -> Self:
        """Wait for the place.

        Raises RouteFailed `queue_full` when there is no room to wait, or none any more, and
        `queue_timeout` after `queue_s`.
        """
        entered = self._admission.lane.enter(self, self._priority)
        if entered.verdict is Verdict.REFUSED:
            raise self._queue_full()
        if entered.displaced is not None:
            entered.displaced.give_way()
        if entered.verdict is Verdict.WAIT:
            await self._wait()
        self._since = time.monotonic()
        return self

    async def _wait(self) -> None:
        admission = self._admission
        since = time.monotonic()
        self._turn = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(admission.queue_s):
                may_go = await self._turn
        except TimeoutError:
            self._leave()
            raise RouteFailed(
                "queue_timeout",
                f"{admission.provider} had no place free within {admission.queue_s:g} s.",
                retry_after_s=admission.retry_after_s,
            ) from None
        except BaseException:
            self._leave()
            raise
        if not may_go:
            raise self._queue_full()
        self.waited_s = time.monotonic() - since

    def _queue_full(self) -> RouteFailed:
        admission = self._admission
        return RouteFailed(
            "queue_full",
            f"{admission.lane.waiting} requests are waiting for {admission.provider} already.",
            retry_after_s=admission.retry_after_s,
        )

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the place to the next in line."""
        self._admission.has_served(time.monotonic() - self._since)
        self._leave()

    def _leave(self) -> None:
        successor = self._admission.lane.leave(self)
        if successor is not None:
            successor.proceed()

    def proceed(self) -> None:
        """End the wait: the place is ours."""
        self._tell(may_go=True)

    def give_way(self) -> None:
        """End the wait: somebody more urgent has the place in the queue."""
        self._tell(may_go=False)

    def _tell(self, *, may_go: bool) -> None:
        # Who is being cancelled at this moment leaves by itself and passes the place on.
        if self._turn is not None and not self._turn.done():
            self._turn.set_result(may_go)
