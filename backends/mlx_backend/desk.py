"""Where the event loop and the MLX thread meet: requests by ticket, in the scheduler's order.

Every method may be called from any thread; none waits for a step.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from backends.mlx_backend.actions import Action, Load, Wait
from backends.mlx_backend.errors import ChatError
from backends.mlx_backend.generation import (
    EngineStatus,
    Event,
    Failed,
    Generation,
    LoadStatus,
    Sink,
    Totals,
)
from backends.mlx_backend.scheduler import BusyError, QueueFullError, Scheduler
from backends.mlx_backend.trace import Trace
from backends.wire import LoadPhase

_MIB = 1024 * 1024
_NOTHING_DONE = LoadPhase.PREPARING, 0


@dataclass(frozen=True, slots=True)
class Request:
    """A generation from its submission to its end; `model` is the scheduler's name for it."""

    generation: Generation
    sink: Sink
    model: str


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model by the first name that it was asked for; its size when that was last of interest."""

    name: str
    folder: Path
    size_mb: float


class Desk:
    """The scheduler behind a lock that is never held while MLX works.

    The scheduler knows a model by where its folder really lies, so that all its names, and the
    links that lead there, are one model.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        clock: Callable[[], float] = time.monotonic,
        trace: Trace | None = None,
    ) -> None:
        self._scheduler = scheduler
        self._clock = clock
        self._trace = trace
        self._lock = threading.Lock()
        self._woken = threading.Event()
        self._requests: dict[int, Request] = {}
        self._known: dict[str, KnownModel] = {}
        self._cancelled: set[int] = set()
        self._unloaded_callbacks: list[Callable[[], object]] = []
        self._stopping = False
        self._action: Action | None = None
        self._since = 0.0
        # How far the load under way is, and when that was heard.
        self._progress = _NOTHING_DONE
        self._heard_at = 0.0
        self._loads = 0
        self._memory_mb = 0.0
        self._why_serial = ""
        self._totals = Totals()

    def __repr__(self) -> str:
        return f"<Desk {self._scheduler!r} action={self._action} stopping={self._stopping}>"

    # For the event loop.

    def submit(self, generation: Generation, sink: Sink) -> int:
        """Queue a generation; `sink` hears of it on the MLX thread until it has ended.

        Returns the ticket to cancel it with. ChatError `queue_full` or `shutting_down`.
        """
        with self._lock:
            if self._stopping:
                raise _shutting_down()
            key = self._know(generation.model, generation.folder)
            try:
                ticket = self._scheduler.submit(
                    key,
                    generation.priority,
                    self._clock(),
                    size_mb=self._known[key].size_mb,
                    queue_s=generation.queue_s,
                )
            except QueueFullError as full:
                text = f"too many requests wait already; try again in {full.retry_after_s} s"
                raise ChatError("queue_full", text, retry_after_s=full.retry_after_s) from None
            self._requests[ticket] = Request(generation, sink, key)
            if self._trace is not None:
                self._trace.moment("Submit", ticket=ticket, priority=generation.priority)
        self._woken.set()
        return ticket

    def preload(self, model: str, folder: Path) -> None:
        """Have a model loaded before anyone asks for it."""
        with self._lock:
            key = self._know(model, folder)
            self._scheduler.preload(key, self._known[key].size_mb)
        self._woken.set()

    def cancel(self, ticket: int) -> None:
        """End a generation within one step, in whatever phase it is; nothing if it has ended.

        Its sink hears no more of it than what is already under way.
        """
        with self._lock:
            if ticket not in self._requests:
                return
            if self._scheduler.withdraw(ticket):
                del self._requests[ticket]
            else:
                self._cancelled.add(ticket)
        self._woken.set()

    def unload(self, done: Callable[[], object]) -> bool:
        """Have all models unloaded; `done` is called on the MLX thread when their memory is back.

        Returns False, without a call, where none is loaded. ChatError `conflict` while anything
        runs, waits or is being loaded, or `shutting_down`.
        """
        with self._lock:
            if self._stopping:
                raise _shutting_down()
            if isinstance(self._action, Load):
                # Nobody need wait for it any more, yet it will be there.
                text = "a model is being loaded; unload it when that is done"
                raise ChatError("conflict", text)
            try:
                wanted = self._scheduler.want_unload()
            except BusyError:
                text = "the model is in use; unload it when nothing runs or waits"
                raise ChatError("conflict", text) from None
            if wanted:
                self._unloaded_callbacks.append(done)
        self._woken.set()
        return wanted

    def status(self) -> EngineStatus:
        """Tell what is going on."""
        with self._lock:
            scheduler, now = self._scheduler, self._clock()
            loading = self._load_status(now)
            taken_s = 0.0 if self._action is None else now - self._since
            rows = scheduler.rows
            return EngineStatus(
                loading=loading,
                state="loading" if loading else "loaded" if scheduler.loaded else "idle",
                models=tuple(self._known[key].name for key in scheduler.loaded),
                why=self._why_serial,
                queued=scheduler.queued,
                prefilling=rows.prefilling,
                decoding=rows.decoding,
                paused=rows.paused,
                memory_mb=self._memory_mb,
                loads=self._loads,
                step_s=0.0 if loading else taken_s,
                events=asdict(scheduler.counters),
                totals=self._totals,
            )

    def _load_status(self, now: float) -> LoadStatus | None:
        if not isinstance(self._action, Load):
            return None
        name, (phase, percent) = self._known[self._action.model].name, self._progress
        return LoadStatus(name, phase, percent, now - self._since, now - self._heard_at)

    def stop(self, error: ChatError | None = None) -> None:
        """End every generation now; nothing is done after the step that is under way."""
        reason = error or _shutting_down()
        with self._lock:
            self._stopping = True
            requests, self._requests = self._requests, {}
            callbacks, self._unloaded_callbacks = self._unloaded_callbacks, []
        self._woken.set()
        for request in requests.values():
            request.sink(Failed(reason))
        for callback in callbacks:
            callback()

    def _know(self, name: str, folder: Path) -> str:
        real = folder.resolve()
        key = str(real)
        if key not in self._scheduler.loaded:
            # Looked at anew: its files may have been replaced since.
            first = self._known[key].name if key in self._known else name
            self._known[key] = KnownModel(first, real, _size_mb(real))
        return key

    # For the MLX thread.

    @property
    def stopping(self) -> bool:
        """Whether everything is over."""
        return self._stopping

    def wait(self, until: float | None) -> None:
        """Return at that time, or before it when something has come."""
        if self._stopping or self._cancelled:
            return
        self._woken.wait(None if until is None else max(0.0, until - self._clock()))

    def next(self) -> Action:
        """Return what is to be done next; what comes from now on ends a later `wait`."""
        # Cleared before it is looked, so that nothing that comes after is slept over.
        self._woken.clear()
        with self._lock:
            now = self._clock()
            action = self._scheduler.next(now)
            if not isinstance(action, Wait):
                self._action, self._since = action, now
                self._progress, self._heard_at = _NOTHING_DONE, now
            return action

    def done(self, memory_mb: float, totals: Totals) -> None:
        """Take note that the action has been performed."""
        with self._lock:
            self._action = None
            self._memory_mb = memory_mb
            self._totals = totals

    def request(self, ticket: int) -> Request | None:
        """Return a request; None where it has ended."""
        with self._lock:
            return self._requests.get(ticket)

    def model(self, key: str) -> KnownModel:
        """Return the model that the scheduler calls so."""
        return self._known[key]

    def cancelled(self) -> list[int]:
        """Return the generations that are to end, for nobody hears them any more."""
        with self._lock:
            return list(self._cancelled)

    def finish(self, ticket: int, event: Event | None) -> None:
        """Take note that a generation has ended, and tell its client how; nothing if it has."""
        with self._lock:
            request = self._requests.pop(ticket, None)
            self._cancelled.discard(ticket)
            self._scheduler.on_ended(ticket, self._clock())
        if request is not None and event is not None:
            request.sink(event)

    def on_cache_sizes(self, caches_mb: Mapping[int, tuple[float, float]]) -> None:
        """Take note of what the caches of rows may grow to, and of what they have come to."""
        with self._lock:
            for ticket, (cache_mb, used_mb) in caches_mb.items():
                self._scheduler.on_cache_size(ticket, cache_mb, used_mb)

    def on_prefilled(self, ticket: int) -> None:
        """Take note that a row's prompt is read."""
        with self._lock:
            self._scheduler.on_prefilled(ticket)

    def on_lost(self, ticket: int, *, suspected: bool = False) -> None:
        """Take note that a row's cache is gone; one that is suspected decodes alone from now on."""
        with self._lock:
            self._scheduler.on_lost(ticket, suspected=suspected)

    def on_acquitted(self, ticket: int) -> None:
        """Take note that a row decodes with the others again."""
        with self._lock:
            self._scheduler.on_acquitted(ticket)

    def on_load_progress(self, phase: LoadPhase, percent: int) -> bool:
        """Take note that a load goes on; tells whether that shows."""
        with self._lock:
            seen, self._progress = self._progress, (phase, percent)
            self._heard_at = self._clock()
            return seen != self._progress

    def on_loaded(self, key: str, why_serial: str) -> None:
        """Take note that a model is loaded; `why_serial` says why rows may not share a batch."""
        with self._lock:
            self._loads += 1
            self._scheduler.on_loaded(key, self._clock())
            self._judge(why_serial)

    def on_load_failed(self, key: str, error: ChatError) -> None:
        """Refuse everyone who waits for a model that cannot be loaded."""
        with self._lock:
            tickets = self._scheduler.on_load_failed(key)
        for ticket in tickets:
            self.finish(ticket, Failed(error))

    def on_unloaded(self, key: str, memory_mb: float, why_serial: str) -> None:
        """Take note that a model is gone, and tell who waits for that."""
        callbacks: list[Callable[[], object]] = []
        with self._lock:
            self._scheduler.on_unloaded(key)
            self._memory_mb = memory_mb
            self._judge(why_serial)
            if not self._scheduler.loaded:
                callbacks, self._unloaded_callbacks = self._unloaded_callbacks, []
        for callback in callbacks:
            callback()

    def _judge(self, why_serial: str) -> None:
        self._why_serial = why_serial
        self._scheduler.set_serial(serial=bool(why_serial))


def _size_mb(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors")) / _MIB


def _shutting_down() -> ChatError:
    return ChatError("shutting_down", "the backend is shutting down")
