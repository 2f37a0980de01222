"""Who is served next: requests that wait, rows that run or are paused, and models in memory.

Pure: no clock, no thread, no MLX. The engine asks `next` what to do, does exactly that, and
reports what came of it. Times are seconds of one clock that never goes back.
"""

from dataclasses import dataclass
from math import ceil
from typing import Final

from backends.mlx_backend.actions import Action, Admit, Expire, Load, Rest, Unload, Wait
from backends.mlx_backend.residents import Residents
from backends.mlx_backend.slots import PROTECTED_STEPS, Row, Slots, Stage
from backends.mlx_backend.steps import Steps
from backends.mlx_backend.waiting_line import Waiting, WaitingLine
from backends.wire import Priority, UnloadReason

# What a refused client is told while no row has finished yet, and the bounds of what it is told.
_RETRY_UNKNOWN_S: Final = 2
_RETRY_LEAST_S: Final = 1
_RETRY_MOST_S: Final = 60
# How much the newest row counts in the mean time of a row.
_MEAN_WEIGHT: Final = 0.2


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may go on at once.

    At most `active` rows run, `max_low` of them LOW, and LOW leaves the last `reserve_high` slots
    free. `queue` requests may wait. `memory_mb` bounds the models' sizes together, `caches_mb`
    what all caches may grow to; None: nothing bounds them. A model is unloaded after
    `idle_unload_s` without use; `queue_idle_stop_s` after anything ran the system may page out what
    is loaded. ValueError for limits under which LOW could never run.
    """

    active: int = 4
    reserve_high: int = 1
    max_low: int = 3
    queue: int = 256
    idle_unload_s: float = 900
    queue_idle_stop_s: float = 60
    memory_mb: float | None = None
    caches_mb: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.reserve_high < self.active:
            raise ValueError("reserve_high must leave at least one of the active rows to LOW")
        if self.max_low < 1:
            raise ValueError("max_low must be at least 1")


@dataclass(frozen=True, slots=True)
class Counters:
    """How often each has happened."""

    pauses: int
    resumes: int
    drops: int
    expired: int
    refused: int


@dataclass(frozen=True, slots=True)
class RowCounts:
    """How many rows are in each state."""

    prefilling: int
    decoding: int
    paused: int


class QueueFullError(Exception):
    """As many requests wait as may wait; a place is likely free in `retry_after_s`."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"the queue is full for about {retry_after_s} s")
        self.retry_after_s = retry_after_s


class BusyError(Exception):
    """The model cannot be unloaded: something of it runs or waits."""


class Scheduler:
    """One queue and one set of slots over all loaded models, each of which has its own batch.

    Tickets are given in order of arrival, so a smaller ticket came first.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._line = WaitingLine()
        self._slots = Slots(
            active=limits.active,
            reserve_high=limits.reserve_high,
            max_low=limits.max_low,
            caches_mb=limits.caches_mb,
        )
        self._models = Residents(limits.memory_mb)
        self._sizes_mb: dict[str, float] = {}
        self._preloads: dict[str, None] = {}
        self._unloads: dict[str, None] = {}
        self._steps = Steps(self._slots, self._models)
        self._tickets = 0
        self._expired = 0
        self._refused = 0
        self._asked_at = 0.0
        self._ran_at = 0.0
        self._rested = True
        self._mean_s: float | None = None

    def __repr__(self) -> str:
        return f"<Scheduler {self._models!r} {self._line!r} {self._slots!r}>"

    @property
    def loaded(self) -> tuple[str, ...]:
        """The loaded models."""
        return self._models.names

    @property
    def queued(self) -> dict[Priority, int]:
        """How many requests wait, by priority."""
        return self._line.counts

    @property
    def rows(self) -> RowCounts:
        """How many rows are in each state."""
        slots = self._slots
        return RowCounts(len(slots.prefilling), len(slots.decoding), len(slots.paused))

    @property
    def counters(self) -> Counters:
        """How often what has happened, so far."""
        slots = self._slots
        return Counters(slots.pauses, slots.resumes, slots.drops, self._expired, self._refused)

    # What is asked for, at any time between two actions.

    def submit(
        self,
        model: str,
        priority: Priority,
        now: float,
        *,
        size_mb: float,
        queue_s: float | None = None,
    ) -> int:
        """Queue a request and return its ticket; it waits for `queue_s` at most.

        QueueFullError where the queue is full. LOW does not take the places of others.
        """
        ahead = self._line.ahead_of(priority)
        if ahead >= self._limits.queue:
            self._refused += 1
            raise QueueFullError(self._retry_after_s(ahead))
        self._tickets += 1
        self._sizes_mb[model] = size_mb
        deadline = None if queue_s is None else now + queue_s
        self._line.add(Waiting(self._tickets, model, priority, deadline))
        return self._tickets

    def withdraw(self, ticket: int) -> bool:
        """Take a request out of the queue; False where it does not wait (any more)."""
        return self._line.remove(ticket)

    def preload(self, model: str, size_mb: float) -> None:
        """Have a model loaded before anyone asks for it, when nothing runs and it fits."""
        if model not in self._models:
            self._sizes_mb[model] = size_mb
            self._preloads[model] = None

    def want_unload(self, model: str | None = None) -> bool:
        """Have a model, or every model, unloaded; False where it is not loaded.

        BusyError while something of it runs or waits.
        """
        concerned = set(self._sizes_mb) if model is None else {model}
        if any(map(self._in_use, concerned)):
            raise BusyError
        for name in concerned:
            self._preloads.pop(name, None)
        wanted = [name for name in self._models.names if name in concerned]
        self._unloads.update(dict.fromkeys(wanted))
        return bool(wanted)

    # What is to be done.

    def next(self, now: float) -> Action:
        """Decide what is done next; what it says is taken as done, but for what is reported."""
        self._asked_at = now
        self._note_use(now)
        return (
            self._expire(now)
            or self._unload_wanted()
            # Before anyone is let in: what is paused here would come straight back.
            or self._slots.relieve()
            or self._let_in(now)
            or self._unload_idle(now)
            or self._steps.next()
            or self._preload()
            or self._rest(now)
        )

    def _note_use(self, now: float) -> None:
        for model in filter(self._in_use, self._models.names):
            self._models.use(model, now)

    def _in_use(self, model: str) -> bool:
        return self._line.waits_for(model) or self._slots.uses(model)

    def _expire(self, now: float) -> Action | None:
        ticket = self._line.overdue(now)
        if ticket is None:
            return None
        self._line.remove(ticket)
        self._expired += 1
        return Expire(ticket)

    def _unload_wanted(self) -> Action | None:
        return next((Unload(model, UnloadReason.ASKED) for model in self._unloads), None)

    def _let_in(self, now: float) -> Action | None:
        if not self._slots.low_is_due(low_queued=self._low_is_queued):
            return self._let_high_in(now) or self._let_low_in(now)
        if self._slots.free:
            # Where it waits for rows of other models to end and LOWs are among them, HIGH goes on.
            held_by_high = not self._slots.low_runs
            return self._let_due_low_in(now) or (None if held_by_high else self._let_high_in(now))
        # Where every slot is a HIGH's or protected, LOW has the first that becomes free. But a
        # slot that a HIGH can make for itself is its own.
        return self._let_high_in(now) if self._slots.newest_that_may_be_paused() else None

    @property
    def _low_is_queued(self) -> bool:
        return self._line.first_low is not None

    def _let_high_in(self, now: float) -> Action | None:
        head = self._line.first
        if head is None or head.is_low:
            return None
        if self._slots.free:
            return self._serve(head, now)
        victim = self._slots.newest_that_may_be_paused()
        if victim is None:
            return None
        if head.model not in self._models:
            return self._make_present(head.model)
        return self._slots.pause(victim)

    def _let_low_in(self, now: float) -> Action | None:
        if not self._slots.open_to_low:
            return None
        if self._slots.paused:
            return self._slots.resume(self._slots.paused[0])
        head = self._line.first
        # Behind a HIGH that waits for another model's rows to end, nobody is let in.
        return self._serve(head, now) if head is not None and head.is_low else None

    def _let_due_low_in(self, now: float) -> Action | None:
        if self._slots.paused:
            return self._slots.resume(self._slots.paused[0])
        head = self._line.first_low
        return None if head is None else self._serve(head, now, protected_steps=PROTECTED_STEPS)

    def _serve(self, request: Waiting, now: float, *, protected_steps: int = 0) -> Action | None:
        if request.model not in self._models:
            return self._make_present(request.model)
        self._line.remove(request.ticket)
        self._slots.add(
            Row(request.ticket, request.model, request.priority, now, protected_steps),
            low_queued=self._low_is_queued,
        )
        return Admit(request.ticket)

    def _make_present(self, model: str) -> Action | None:
        """Load a model, or unload another for it; None where it must wait for rows to end."""
        if self._models.fits(self._sizes_mb[model]):
            return Load(model)
        other = self._models.least_recently_used(lambda name: not self._slots.uses(name))
        return None if other is None else Unload(other, UnloadReason.MEMORY)

    # Idleness.

    def _unload_idle(self, now: float) -> Action | None:
        model = self._longest_idle()
        if model is None or now < self._idle_until(model):
            return None
        return Unload(model, UnloadReason.IDLE)

    def _longest_idle(self) -> str | None:
        return self._models.least_recently_used(lambda name: not self._in_use(name))

    def _idle_until(self, model: str) -> float:
        return self._models.used_at(model) + self._limits.idle_unload_s

    def _preload(self) -> Action | None:
        fitting = (name for name in self._preloads if self._models.fits(self._sizes_mb[name]))
        return next(map(Load, fitting), None)

    def _rest(self, now: float) -> Action:
        model = self._longest_idle()
        if model is None:
            return Wait(None)
        if self._rested:
            return Wait(self._idle_until(model))
        rest_at = self._ran_at + self._limits.queue_idle_stop_s
        if now < rest_at:
            return Wait(min(rest_at, self._idle_until(model)))
        self._rested = True
        return Rest()

    def _ran(self, now: float) -> None:
        self._ran_at = now
        self._rested = False

    # What came of it.

    def on_loaded(self, model: str, now: float) -> None:
        """Take note that a model is loaded; who waited meanwhile has that much longer."""
        self._line.postpone(now - self._asked_at)
        self._preloads.pop(model, None)
        self._models.add(model, self._sizes_mb[model], now)
        self._ran(now)

    def on_load_failed(self, model: str) -> list[int]:
        """Drop everyone who waits for a model that cannot be loaded; returns their tickets."""
        self._preloads.pop(model, None)
        return self._line.remove_model(model)

    def on_unloaded(self, model: str) -> None:
        """Take note that a model is gone."""
        self._unloads.pop(model, None)
        self._models.remove(model)

    def on_cache_size(self, ticket: int, cache_mb: float, used_mb: float = 0.0) -> None:
        """Take note of what a row's cache is expected to grow to, and of what it has come to.

        May be told again and again.
        """
        row = self._slots.get(ticket)
        if row is not None:
            row.cache_mb, row.used_mb = cache_mb, used_mb

    def on_prefilled(self, ticket: int) -> None:
        """Take note that a row's prompt is read; its next step is Decode."""
        row = self._slots.get(ticket)
        if row is not None:
            row.stage = Stage.DECODING

    def on_lost(self, ticket: int, *, suspected: bool = False) -> None:
        """Take note that a row's cache is gone: it is prefilled again, with what it generated.

        One that is `suspected` of making steps fail decodes alone until `on_acquitted`.
        """
        row = self._slots.get(ticket)
        if row is not None:
            row.stage = Stage.UNREAD
            row.alone = row.alone or suspected

    def on_acquitted(self, ticket: int) -> None:
        """Take note that a row has decoded alone without failing, and is back among the others."""
        row = self._slots.get(ticket)
        if row is not None:
            row.alone = False

    def set_serial(self, *, serial: bool) -> None:
        """Have one row run at a time, or as many as the limits say."""
        limits = self._limits
        if serial:
            self._slots.share(active=1, reserve_high=0, max_low=1)
        else:
            self._slots.share(
                active=limits.active, reserve_high=limits.reserve_high, max_low=limits.max_low
            )

    def on_ended(self, ticket: int, now: float) -> None:
        """Take note that a row has ended, whichever way; nothing where it has ended before."""
        row = self._slots.remove(ticket)
        if row is None:
            return
        self._models.use(row.model, now)
        self._ran(now)
        taken_s = now - row.admitted_at
        known_s = taken_s if self._mean_s is None else self._mean_s
        self._mean_s = known_s + _MEAN_WEIGHT * (taken_s - known_s)

    def _retry_after_s(self, ahead: int) -> int:
        if self._mean_s is None:
            return _RETRY_UNKNOWN_S
        estimate_s = ceil(self._mean_s * ahead / self._limits.active)
        return min(max(estimate_s, _RETRY_LEAST_S), _RETRY_MOST_S)
