"""Who is served next: a queue, the rows that run, and the model that is loaded.

Pure: no clock, no thread, no MLX. The engine asks `next` what to do, does exactly that, and
reports what came of it.
"""

from bisect import insort
from dataclasses import dataclass
from typing import NamedTuple

from backends.wire import Priority


@dataclass(frozen=True, slots=True)
class Load:
    """Load this model; nothing else is loaded."""

    model: str


@dataclass(frozen=True, slots=True)
class Unload:
    """Give back the loaded model's memory; no row runs."""


@dataclass(frozen=True, slots=True)
class Admit:
    """Bring this request into the batch; it counts as running from now on."""

    ticket: int


@dataclass(frozen=True, slots=True)
class Advance:
    """Take one step of the batch."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before this time, or before something is submitted where it is None."""

    until: float | None


Action = Load | Unload | Admit | Advance | Wait


class QueueFullError(Exception):
    """As many requests wait as may wait."""


class BusyError(Exception):
    """The model cannot be unloaded: something runs or waits."""


class _Waiting(NamedTuple):
    # The order of the fields is the order of service.
    priority: Priority
    ticket: int
    model: str


class Scheduler:
    """Queue ordered by (priority, arrival), at most `active` rows, one loaded model at a time.

    Tickets are given in order of arrival, so a smaller ticket came first.
    """

    def __init__(self, *, active: int, queue: int, idle_unload_s: float) -> None:
        self._active = active
        self._capacity = queue
        self._idle_unload_s = idle_unload_s
        self._waiting: list[_Waiting] = []
        self._running: set[int] = set()
        self._loaded: str | None = None
        self._preload: str | None = None
        self._unload_wanted = False
        self._idle_since = 0.0
        self._tickets = 0

    def __repr__(self) -> str:
        return (
            f"<Scheduler loaded={self._loaded!r} queued={self.queued} running={self.running}"
            f"/{self._active}>"
        )

    @property
    def loaded(self) -> str | None:
        """The model that is loaded."""
        return self._loaded

    @property
    def queued(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """How many rows run."""
        return len(self._running)

    def submit(self, model: str, priority: Priority) -> int:
        """Queue a request and return its ticket; QueueFullError where the queue is full."""
        if len(self._waiting) >= self._capacity:
            raise QueueFullError
        self._tickets += 1
        insort(self._waiting, _Waiting(priority, self._tickets, model))
        return self._tickets

    def preload(self, model: str) -> None:
        """Have a model loaded before anyone asks for it."""
        self._preload = model

    def withdraw(self, ticket: int) -> bool:
        """Take a request out of the queue; False where it does not wait (any more)."""
        for index, entry in enumerate(self._waiting):
            if entry.ticket == ticket:
                del self._waiting[index]
                return True
        return False

    def want_unload(self) -> bool:
        """Have the model unloaded; False where none is, BusyError where something needs it."""
        if self._running or self._waiting:
            raise BusyError
        self._preload = None
        self._unload_wanted = self._loaded is not None
        return self._unload_wanted

    def next(self, now: float) -> Action:
        """Decide the next step; an admitted request moves from the queue to the rows."""
        if self._unload_wanted and not self._running:
            return Unload()
        if self._waiting:
            return self._serve(self._waiting[0])
        if self._running:
            return Advance()
        if self._preload is not None and self._loaded is None:
            return Load(self._preload)
        return self._rest(now)

    def _serve(self, head: _Waiting) -> Action:
        if head.model == self._loaded and len(self._running) < self._active:
            del self._waiting[0]
            self._running.add(head.ticket)
            return Admit(head.ticket)
        if self._running:
            # The head waits for a free row, or for the rows of another model to end; nobody
            # passes it meanwhile, so that a busy model cannot starve a request for another.
            return Advance()
        return Load(head.model) if self._loaded is None else Unload()

    def _rest(self, now: float) -> Action:
        if self._loaded is None:
            return Wait(None)
        deadline = self._idle_since + self._idle_unload_s
        return Unload() if now >= deadline else Wait(deadline)

    def on_loaded(self, model: str, now: float) -> None:
        """Take note that a model is loaded."""
        self._loaded = model
        self._preload = None
        self._idle_since = now

    def on_load_failed(self, model: str) -> list[int]:
        """Drop everyone who waits for a model that cannot be loaded; return their tickets."""
        dropped = [entry.ticket for entry in self._waiting if entry.model == model]
        self._waiting = [entry for entry in self._waiting if entry.model != model]
        if self._preload == model:
            self._preload = None
        return dropped

    def on_unloaded(self) -> None:
        """Take note that the model is gone."""
        self._loaded = None
        self._unload_wanted = False

    def on_ended(self, ticket: int, now: float) -> None:
        """Take note that a row has ended, whichever way."""
        self._running.discard(ticket)
        self._idle_since = now
