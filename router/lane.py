"""Who runs, who waits, who is refused: a bounded first-come queue for one scarce resource.

Only decisions are taken here; `admission` carries them out.
"""

from collections import OrderedDict
from enum import Enum, auto
from typing import Generic, TypeVar

Ticket = TypeVar("Ticket")


class Verdict(Enum):
    """What a newcomer is told."""

    RUN = auto()
    WAIT = auto()
    REFUSED = auto()


class Lane(Generic[Ticket]):
    """At most `concurrency` tickets run at once, at most `queue` wait, in the order they came."""

    def __init__(self, concurrency: int, queue: int) -> None:
        self._concurrency = concurrency
        self._queue = queue
        self._running: set[Ticket] = set()
        self._waiting: OrderedDict[Ticket, None] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Lane running={len(self._running)} waiting={len(self._waiting)}>"

    @property
    def running(self) -> int:
        """How many run now."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """How many wait now."""
        return len(self._waiting)

    def enter(self, ticket: Ticket) -> Verdict:
        """Admit a newcomer, let it wait, or refuse it when the queue is full."""
        if len(self._running) < self._concurrency and not self._waiting:
            self._running.add(ticket)
            return Verdict.RUN
        if len(self._waiting) < self._queue:
            self._waiting[ticket] = None
            return Verdict.WAIT
        return Verdict.REFUSED

    def leave(self, ticket: Ticket) -> Ticket | None:
        """Take a ticket out, whether it ran or waited; return the one that now runs instead."""
        if ticket in self._waiting:
            del self._waiting[ticket]
            return None
        self._running.remove(ticket)
        if not self._waiting:
            return None
        successor, _ = self._waiting.popitem(last=False)
        self._running.add(successor)
        return successor
