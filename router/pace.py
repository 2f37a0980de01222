"""The pace of an answer that flows: what a provider may take to its next sign of life."""

import time
from collections.abc import Awaitable, Generator
from typing import Any

from router.deadline import Deadline, Deadlines
from router.errors import StreamFailed
from router.waiting import NOTHING


class Pace:
    """Counts from one sign of life to the next; while the client is waited for, time stands still.

    `over` is set when no more of the answer is wanted.
    """

    def __init__(self, deadlines: Deadlines, deadline: Deadline) -> None:
        self.over = False
        self._deadlines = deadlines
        self.deadline = deadline
        self._over_at = time.monotonic() + deadlines.total_s
        self.expect_more()

    def expect_more(self) -> None:
        """Begin to count to the next sign of life."""
        deadlines = self._deadlines
        left_s = self._over_at - time.monotonic()
        if left_s < deadlines.idle_s:
            self.deadline.expect(max(left_s, 0), lambda: _too_long(deadlines))
        else:
            self.deadline.expect(deadlines.idle_s, lambda: _idle(deadlines))

    def patient(self, waiting: Awaitable[None]) -> Awaitable[None]:
        """Return the wait for a client, which is no time of the provider's."""
        return waiting if waiting is NOTHING else _Patience(self, waiting)


class _Patience:
    """The wait for a client to read.

    No coroutine: whoever should await it may be cancelled before it has its turn.
    """

    __slots__ = ("_pace", "_waiting")

    def __init__(self, pace: Pace, waiting: Awaitable[None]) -> None:
        self._pace = pace
        self._waiting = waiting

    def __await__(self) -> Generator[Any, Any, None]:
        self._pace.deadline.silence()
        yield from self._waiting.__await__()
        self._pace.expect_more()


def truncated() -> StreamFailed:
    """Return the failure of an answer that is not whole."""
    return StreamFailed(
        "upstream_truncated", "The provider's answer broke off before it was complete."
    )


def _idle(deadlines: Deadlines) -> StreamFailed:
    return StreamFailed(
        "upstream_idle_timeout", f"The provider sent nothing for {deadlines.idle_s:g} s."
    )


def _too_long(deadlines: Deadlines) -> StreamFailed:
    return StreamFailed(
        "upstream_total_timeout", f"The answer was not complete within {deadlines.total_s:g} s."
    )
