"""Who runs, who waits, who is refused: a bounded queue for one scarce resource, the urgent first.

Only decisions are taken here; `admission` carries them out.
"""

from collections import OrderedDict
from enum import Enum, auto
from typing import Generic, NamedTuple, TypeVar

from backends.wire import Priority

Ticket = TypeVar("Ticket")

# So many urgent ones may be let in before a LOW one that waits; then the oldest LOW one goes.
_URGENT_IN_A_ROW = 7


class Verdict(Enum):
    """What a newcomer is told."""

    RUN = auto()
    WAIT = auto()
    REFUSED = auto()


class Entered(NamedTuple, Generic[Ticket]):
    """What becomes of a newcomer, and who has lost a place in the queue to it."""

    verdict: Verdict
    displaced: Ticket | None = None


_RUN: Entered[None] = Entered(Verdict.RUN)
_WAIT: Entered[None] = Entered(Verdict.WAIT)
_REFUSED: Entered[None] = Entered(Verdict.REFUSED)


class Lane(Generic[Ticket]):
    """At most `concurrency` tickets run at once and at most `queue` wait.

    LOW ones may take all places but `reserve_high`, and always one. Who waits goes by priority,
    then by arrival; after seven urgent ones in a row the oldest LOW one goes. Where the queue is
    full, an urgent newcomer takes the place of the LOW one that came last.
    """

    def __init__(self, concurrency: int, queue: int, reserve_high: int = 0) -> None:
        self._concurrency = concurrency
        self._queue = queue
        self._places_for_low = max(1, concurrency - reserve_high)
        self._running: dict[Ticket, Priority] = {}
        self._running_low = 0
        self._waiting: dict[Priority, OrderedDict[Ticket, None]] = {
            priority: OrderedDict() for priority in sorted(Priority)
        }
        self._low = self._waiting[Priority.LOW]
        self.waiting = 0
        self._urgent_in_a_row = 0

    def __repr__(self) -> str:
        return f"<Lane running={len(self._running)} waiting={self.waiting}>"

    @property
    def running(self) -> int:
        """How many run now."""
        return len(self._running)

    def enter(self, ticket: Ticket, priority: Priority) -> Entered[Ticket] | Entered[None]:
        """Admit a newcomer, let it wait, or refuse it when the queue is full."""
        if self._has_room(priority):
            self._run(ticket, priority)
            return _RUN
        displaced = None
        if self.waiting >= self._queue:
            if priority is Priority.LOW or not self._low:
                return _REFUSED
            displaced, _ = self._low.popitem()
            self.waiting -= 1
        self._waiting[priority][ticket] = None
        self.waiting += 1
        return _WAIT if displaced is None else Entered(Verdict.WAIT, displaced)

    def leave(self, ticket: Ticket) -> Ticket | None:
        """Take a ticket out, whether it ran or waited; return the one that now runs instead.

        One that was displaced is out already, and leaves nothing behind.
        """
        priority = self._running.pop(ticket, None)
        if priority is None:
            self._cease_to_wait(ticket)
            return None
        if priority is Priority.LOW:
            self._running_low -= 1
        if not self.waiting:
            return None
        return self._next()

    def _has_room(self, priority: Priority) -> bool:
        """Tell whether one more of this priority may run; nobody else of it waits then."""
        if len(self._running) >= self._concurrency:
            return False
        return priority is not Priority.LOW or self._running_low < self._places_for_low

    def _run(self, ticket: Ticket, priority: Priority) -> None:
        self._running[ticket] = priority
        if priority is Priority.LOW:
            self._running_low += 1

    def _cease_to_wait(self, ticket: Ticket) -> None:
        for line in self._waiting.values():
            if ticket in line:
                del line[ticket]
                self.waiting -= 1

    def _next(self) -> Ticket | None:
        """Let the next one run whom the free place is for."""
        low_may_run = bool(self._low) and self._has_room(Priority.LOW)
        if low_may_run and self._urgent_in_a_row >= _URGENT_IN_A_ROW:
            return self._let_run(Priority.LOW)
        for priority, line in self._waiting.items():
            if line and priority is not Priority.LOW:
                # Only who keeps somebody waiting is counted.
                self._urgent_in_a_row = self._urgent_in_a_row + 1 if self._low else 0
                return self._let_run(priority)
        return self._let_run(Priority.LOW) if low_may_run else None

    def _let_run(self, priority: Priority) -> Ticket:
        if priority is Priority.LOW:
            self._urgent_in_a_row = 0
        ticket, _ = self._waiting[priority].popitem(last=False)
        self.waiting -= 1
        self._run(ticket, priority)
        return ticket
