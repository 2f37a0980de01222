"""Deadlines without a timer each: one sweeper wakes the event loop for the earliest of them.

A timer in the event loop costs more than most requests have to spend, and nearly none of them ever
fires. Here an alarm is a number that may be moved by assignment; the loop has one timer for all.
"""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

_NEVER = math.inf
# How late an alarm may ring, in seconds: what rings at nearly the same time rings in one sweep.
_RESOLUTION_S = 0.01


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds a provider may take.

    `first_byte_s` to the head of its answer and a stream's first event, `idle_s` from one event
    with data to the next, `total_s` for all of it.
    """

    first_byte_s: float
    idle_s: float
    total_s: float


class Sweeper:
    """Rings alarms of one event loop. Times are the loop's own, in seconds."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._alarms: set[Rings] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._next = _NEVER

    def __repr__(self) -> str:
        return f"<Sweeper alarms={len(self._alarms)}>"

    def __len__(self) -> int:
        return len(self._alarms)

    def alarm(self, ring: Callable[[], None]) -> "Alarm":
        """Return an alarm that is not set; whoever asked for it closes it."""
        alarm = Alarm(self, ring)
        self._alarms.add(alarm)
        return alarm

    def watch(self, alarm: "Rings") -> None:
        """Ring this when it is due, until it is forgotten."""
        self._alarms.add(alarm)

    def set(self, alarm: "Rings", within_s: float) -> None:
        """Let an alarm ring in `within_s` seconds; math.inf silences it."""
        alarm.due = due = self.loop.time() + within_s
        if due < self._next:
            self._wake_at(due)

    def forget(self, alarm: "Rings") -> None:
        """Never ring this alarm again."""
        self._alarms.discard(alarm)
        if not self._alarms and self._timer is not None:
            self._timer.cancel()
            self._timer, self._next = None, _NEVER

    def _wake_at(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next = due
        self._timer = self.loop.call_at(due, self._sweep)

    def _sweep(self) -> None:
        """Ring what is due, and sleep until the next one is."""
        self._timer, self._next = None, _NEVER
        now = self.loop.time()
        for alarm in [alarm for alarm in self._alarms if alarm.due <= now]:
            alarm.due = _NEVER
            alarm.ring()
        earliest = min((alarm.due for alarm in self._alarms), default=_NEVER)
        # An alarm that was set while others rang may have set the timer already.
        if earliest < self._next:
            self._wake_at(max(earliest, now + _RESOLUTION_S))


class Rings(Protocol):
    """What a sweeper rings: `due` is a time of the loop, math.inf for never."""

    due: float

    def ring(self) -> None:
        """Do what is due, without waiting for anything."""
        ...


class Alarm:
    """Calls `ring` at a time, unless the time is moved before."""

    __slots__ = ("_sweeper", "due", "ring")

    def __init__(self, sweeper: Sweeper, ring: Callable[[], None]) -> None:
        self._sweeper = sweeper
        self.ring = ring
        self.due = _NEVER

    def set(self, within_s: float) -> None:
        """Ring in `within_s` seconds instead of whenever it would have."""
        self._sweeper.set(self, within_s)

    def silence(self) -> None:
        """Do not ring until set again."""
        self.due = _NEVER

    def close(self) -> None:
        """Never ring again."""
        self._sweeper.forget(self)


class Deadline:
    """Ends the work inside its `with` by an error when time is up. Moved as often as need be.

    The work is cancelled, and the cancellation, no other one, becomes the error.
    """

    __slots__ = ("_cancelling", "_error", "_late", "_sweeper", "_task", "due")

    def __init__(self, sweeper: Sweeper) -> None:
        self._sweeper = sweeper
        self._error: Callable[[], Exception] = TimeoutError
        self._late = False
        self.due = _NEVER

    def __enter__(self) -> Self:
        """Begin, without a time as yet."""
        task = asyncio.current_task(self._sweeper.loop)
        if task is None:
            raise RuntimeError("a deadline needs a task that it can cancel")
        self._task = task
        self._cancelling = task.cancelling()
        self._sweeper.watch(self)
        return self

    def expect(self, within_s: float, error: Callable[[], Exception]) -> None:
        """Raise what `error` returns unless this is called again, or left, within that time."""
        self._error = error
        self._sweeper.set(self, within_s)

    def silence(self) -> None:
        """Let time stand still until the next `expect`."""
        self.due = _NEVER

    def ring(self) -> None:
        """Cancel the work."""
        self._late = True
        self._task.cancel()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the clock; raise the agreed error in place of our own cancellation."""
        self._sweeper.forget(self)
        if (
            self._late
            and self._task.uncancel() <= self._cancelling
            and kind is asyncio.CancelledError
        ):
            raise self._error() from None
