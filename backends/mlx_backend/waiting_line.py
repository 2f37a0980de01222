"""The requests that wait, in the order in which they are to be served."""

from bisect import bisect_left, insort
from collections import Counter, OrderedDict
from dataclasses import dataclass, replace

from backends.wire import Priority


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request in the queue; `deadline` is when it stops waiting."""

    ticket: int
    model: str
    priority: Priority
    deadline: float | None

    @property
    def is_low(self) -> bool:
        """Whether it gives way to others."""
        return self.priority is Priority.LOW


class WaitingLine:
    """Queue by (priority, arrival); tickets are given in order of arrival.

    Adding, removing and looking at the head cost the same however many wait.
    """

    def __init__(self) -> None:
        self._queues: dict[Priority, OrderedDict[int, Waiting]] = {
            priority: OrderedDict() for priority in sorted(Priority)
        }
        # By what `postpone` says they are later than what is noted.
        self._deadlines: list[tuple[float, int]] = []
        self._later_s = 0.0
        self._models: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<WaitingLine {self.counts}>"

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    @property
    def counts(self) -> dict[Priority, int]:
        """How many wait, by priority."""
        return {priority: len(queue) for priority, queue in self._queues.items()}

    @property
    def first(self) -> Waiting | None:
        """Who is served next."""
        return next((next(iter(queue.values())) for queue in self._queues.values() if queue), None)

    @property
    def first_low(self) -> Waiting | None:
        """Who is served next of those that give way to others."""
        return next(iter(self._queues[Priority.LOW].values()), None)

    def ahead_of(self, priority: Priority) -> int:
        """Count those that a newcomer cannot push back: all for LOW, all but LOW for others."""
        lows = 0 if priority is Priority.LOW else len(self._queues[Priority.LOW])
        return len(self) - lows

    def waits_for(self, model: str) -> bool:
        """Tell whether anyone waits for this model."""
        return model in self._models

    def add(self, request: Waiting) -> None:
        """Append a request; its ticket is larger than any before."""
        if request.deadline is not None:
            request = replace(request, deadline=request.deadline - self._later_s)
        self._queues[request.priority][request.ticket] = request
        self._models[request.model] += 1
        if request.deadline is not None:
            insort(self._deadlines, (request.deadline, request.ticket))

    def remove(self, ticket: int) -> bool:
        """Take a request out; False where it does not wait (any more)."""
        for queue in self._queues.values():
            request = queue.pop(ticket, None)
            if request is not None:
                self._forget(request)
                return True
        return False

    def remove_model(self, model: str) -> list[int]:
        """Take out everyone who waits for this model; returns the tickets in order of service."""
        tickets = [
            ticket
            for queue in self._queues.values()
            for ticket, request in queue.items()
            if request.model == model
        ]
        for ticket in tickets:
            self.remove(ticket)
        return tickets

    def overdue(self, now: float) -> int | None:
        """Return the request whose deadline passed first, if any has."""
        if not self._deadlines or self._deadlines[0][0] + self._later_s > now:
            return None
        return self._deadlines[0][1]

    def postpone(self, by_s: float) -> None:
        """Move all deadlines, because nobody could be served for so long."""
        self._later_s += by_s

    def _forget(self, request: Waiting) -> None:
        self._models[request.model] -= 1
        if not self._models[request.model]:
            del self._models[request.model]
        if request.deadline is not None:
            del self._deadlines[bisect_left(self._deadlines, (request.deadline, request.ticket))]
