"""The one MLX thread: it loads, reads prompts, decodes, pauses and unloads, one unit a step.

`submit`, `cancel`, `unload`, `status` and `stop` may be called from any thread; everything else
runs on the thread that called `run`. MLX's streams belong to a thread, so nothing else may touch
a model.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from backends.mlx_backend.errors import ChatError
from backends.mlx_backend.generation import (
    Admitted,
    EngineStatus,
    Event,
    Failed,
    Generation,
    Progress,
    Sink,
)
from backends.mlx_backend.models import LoadedModel, give_back_memory, size_mb
from backends.mlx_backend.rows import Ended, ModelRows, generation_failed
from backends.mlx_backend.scheduler import (
    Action,
    Admit,
    BusyError,
    Decode,
    Drop,
    Expire,
    Load,
    Pause,
    Prefill,
    QueueFullError,
    Rest,
    Resume,
    Scheduler,
    Unload,
    Wait,
)

log = logging.getLogger(__name__)

_MIB = 1024 * 1024
# How often those who are served, though not by each step, hear that the engine goes on.
_BEAT_S = 1.0
_RETRY_AFTER_S = 5


@dataclass(frozen=True, slots=True)
class _Request:
    """A generation from its submission to its end."""

    generation: Generation
    sink: Sink
    model: str


class Engine:
    """Owner of models, caches and batches.

    `scheduler` decides, guarded by a lock that is never held while MLX works, so that submitting
    and cancelling never wait for a step. `chunk_s` is how long a chunk of a prompt may take.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        chunk_s: float,
        kv_bits: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._scheduler = scheduler
        self._chunk_s = chunk_s
        self._kv_bits = kv_bits
        self._clock = clock
        self._wake = threading.Event()
        # Everything down to the blank line is shared and guarded by the lock. The scheduler knows
        # a model by its folder, so that all its names are one model.
        self._lock = threading.Lock()
        self._requests: dict[int, _Request] = {}
        self._names: dict[str, tuple[str, Path]] = {}
        self._cancelled: set[int] = set()
        self._unloaded_callbacks: list[Callable[[], object]] = []
        self._stopping = False
        self._action: Action | None = None
        self._since = 0.0
        self._loads = 0
        self._memory_mb = 0.0

        # The MLX thread's own.
        self._models: dict[str, ModelRows] = {}
        self._beat_at = 0.0

    def __repr__(self) -> str:
        return f"<Engine {self._scheduler!r} action={self._action} stopping={self._stopping}>"

    # From any thread.

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
                    size_mb=size_mb(generation.folder),
                    queue_s=generation.queue_s,
                )
            except QueueFullError as full:
                text = f"too many requests wait already; try again in {full.retry_after_s} s"
                raise ChatError("queue_full", text, retry_after_s=full.retry_after_s) from None
            self._requests[ticket] = _Request(generation, sink, key)
        self._wake.set()
        return ticket

    def preload(self, model: str, folder: Path) -> None:
        """Have a model loaded before anyone asks for it."""
        with self._lock:
            self._scheduler.preload(self._know(model, folder), size_mb(folder))
        self._wake.set()

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
        self._wake.set()

    def unload(self, done: Callable[[], object]) -> bool:
        """Have all models unloaded; `done` is called on the MLX thread when their memory is back.

        Returns False, without a call, where none is loaded. ChatError `conflict` while anything
        runs or waits, or `shutting_down`.
        """
        with self._lock:
            if self._stopping:
                raise _shutting_down()
            try:
                wanted = self._scheduler.want_unload()
            except BusyError:
                text = "the model is in use; unload it when nothing runs or waits"
                raise ChatError("conflict", text) from None
            if wanted:
                self._unloaded_callbacks.append(done)
        self._wake.set()
        return wanted

    def status(self) -> EngineStatus:
        """Tell what is going on."""
        with self._lock:
            loaded = self._scheduler.loaded
            loading = isinstance(self._action, Load)
            return EngineStatus(
                state="loading" if loading else "loaded" if loaded else "idle",
                model=self._names[loaded[-1]][0] if loaded else None,
                queue=self._scheduler.queued,
                active=self._scheduler.running,
                memory_mb=self._memory_mb,
                loads=self._loads,
            )

    def step_age_s(self) -> float:
        """Return how long the step that is under way has taken; 0 between steps and for a load."""
        with self._lock:
            busy = self._action is not None and not isinstance(self._action, Load)
            return self._clock() - self._since if busy else 0.0

    def stop(self) -> None:
        """End every generation now, and have `run` return after the step that is under way."""
        with self._lock:
            self._stopping = True
            requests, self._requests = self._requests, {}
            callbacks, self._unloaded_callbacks = self._unloaded_callbacks, []
        self._wake.set()
        for request in requests.values():
            request.sink(Failed(_shutting_down()))
        for callback in callbacks:
            callback()

    def _know(self, name: str, folder: Path) -> str:
        key = str(folder)
        self._names.setdefault(key, (name, folder))
        return key

    # On the MLX thread.

    def run(self, ready: Callable[[], None]) -> None:
        """Serve until `stop`; `ready` is called once MLX has evaluated something."""
        try:
            mx.eval(mx.array(1.0) + 1.0)
            ready()
            while True:
                # Cleared before the step looks, so that what comes after it wakes us again.
                self._wake.clear()
                if self._stopping:
                    return
                pause = self.step()
                if pause is not None:
                    until = pause.until
                    self._wake.wait(None if until is None else max(0.0, until - self._clock()))
        finally:
            self._close()

    def step(self) -> Wait | None:
        """Advance by one unit: a load, a picture, a chunk of a prompt, a token for each row.

        Returns how long there is nothing to do, or None when there may be more.
        """
        self._drop_cancelled()
        with self._lock:
            now = self._clock()
            action = self._scheduler.next(now)
            if isinstance(action, Wait):
                return action
            self._action, self._since = action, now
        error = self._attempt(action)
        if error is not None:
            self._recover(action, error)
        self._beat()
        memory_mb = _memory_mb()
        with self._lock:
            self._action = None
            self._memory_mb = memory_mb
        return None

    def _attempt(self, action: Action) -> Exception | None:
        """Perform an action; what goes wrong with it is returned, so that nothing holds on to it.

        A failure, whatever it is, ends the requests concerned and no others.
        """
        try:
            self._perform(action)
        except ChatError as refusal:
            return refusal
        except Exception as error:
            # MLX and model code fail in any way there is. Logged with its stack and converted.
            log.exception("%s failed", action)
            return error.with_traceback(None)
        return None

    def _perform(self, action: Action) -> None:
        match action:
            case Load(model=key):
                self._load(key)
            case Unload(model=key):
                self._unload(key)
            case Admit(ticket=ticket):
                self._admit(ticket)
            case Prefill(ticket=ticket):
                if self._rows_of(ticket).prefill(ticket):
                    with self._lock:
                        self._scheduler.on_prefilled(ticket, self._clock())
            case Decode(model=key):
                for ended in self._models[key].decode():
                    self._end(ended)
            case Pause(ticket=ticket):
                if not self._rows_of(ticket).pause(ticket):
                    with self._lock:
                        self._scheduler.on_lost(ticket)
            case Resume(ticket=ticket):
                self._rows_of(ticket).resume(ticket)
            case Drop(ticket=ticket):
                self._rows_of(ticket).drop(ticket)
            case Expire(ticket=ticket):
                self._finish(ticket, Failed(_expired(self._requests[ticket].generation)))
            case Rest():
                for rows in self._models.values():
                    rows.rest()

    def _recover(self, action: Action, error: Exception) -> None:
        match action:
            case Load(model=key):
                with self._lock:
                    tickets = self._scheduler.on_load_failed(key)
                refusal = _load_failed(self._names[key][0], error)
                log.warning("%s", refusal.message)
                for ticket in tickets:
                    self._finish(ticket, Failed(refusal))
                give_back_memory()
            case Decode(model=key):
                lost = self._models[key].rebuild(error)
                for ended in lost.ended:
                    self._end(ended)
                with self._lock:
                    for ticket in lost.again:
                        self._scheduler.on_lost(ticket)
            case Admit(ticket=ticket) | Prefill(ticket=ticket):
                refusal = error if isinstance(error, ChatError) else generation_failed(error)
                self._finish(ticket, Failed(refusal))
            case Pause(ticket=ticket) | Resume(ticket=ticket) | Drop(ticket=ticket):
                self._finish(ticket, Failed(generation_failed(error)))

    def _load(self, key: str) -> None:
        name, folder = self._names[key]
        begun = self._clock()
        model = LoadedModel(name, folder, chunk_s=self._chunk_s, kv_bits=self._kv_bits)
        self._models[key] = ModelRows(model)
        with self._lock:
            self._loads += 1
            self._scheduler.on_loaded(key, self._clock())
        log.info("loaded %s in %.1f s", name, self._clock() - begun)

    def _unload(self, key: str) -> None:
        try:
            self._models.pop(key).close()
        finally:
            memory_mb = _memory_mb()
            with self._lock:
                self._scheduler.on_unloaded(key)
                self._memory_mb = memory_mb
                callbacks: list[Callable[[], object]] = []
                if not self._scheduler.loaded:
                    callbacks, self._unloaded_callbacks = self._unloaded_callbacks, []
            for callback in callbacks:
                callback()
        log.info("unloaded %s", self._names[key][0])

    def _admit(self, ticket: int) -> None:
        with self._lock:
            request = self._requests.get(ticket)
        if request is None:
            return  # stopped a moment ago
        request.sink(Admitted())
        tokens = self._models[request.model].admit(ticket, request.generation, request.sink)
        with self._lock:
            self._scheduler.on_admitted(ticket, tokens)

    def _rows_of(self, ticket: int) -> ModelRows:
        return next(rows for rows in self._models.values() if ticket in rows)

    def _drop_cancelled(self) -> None:
        with self._lock:
            cancelled = list(self._cancelled)
        for ticket in cancelled:
            self._finish(ticket, None)

    def _end(self, ended: Ended) -> None:
        failed = isinstance(ended.end, ChatError)
        self._finish(ended.ticket, Failed(ended.end) if failed else ended.end)

    def _finish(self, ticket: int, event: Event | None) -> None:
        for rows in self._models.values():
            rows.remove(ticket)
        with self._lock:
            request = self._requests.pop(ticket, None)
            self._cancelled.discard(ticket)
            self._scheduler.on_ended(ticket, self._clock())
        if request is not None and event is not None:
            request.sink(event)

    def _beat(self) -> None:
        now = self._clock()
        if now - self._beat_at >= _BEAT_S:
            self._beat_at = now
            for rows in self._models.values():
                rows.beat()

    def _close(self) -> None:
        self.stop()
        for rows in self._models.values():
            rows.close()
        self._models.clear()
        # MLX aborts the process at exit if a thread leaves its streams behind.
        mx.clear_streams()


def _memory_mb() -> float:
    held: int = mx.get_active_memory() + mx.get_cache_memory()
    return held / _MIB


def _shutting_down() -> ChatError:
    return ChatError("shutting_down", "the backend is shutting down")


def _expired(generation: Generation) -> ChatError:
    text = f"waited {generation.queue_s:g} s for a place; try again later"
    return ChatError("queue_timeout", text, retry_after_s=_RETRY_AFTER_S)


def _load_failed(name: str, error: Exception) -> ChatError:
    if isinstance(error, ChatError):
        return error
    return ChatError(
        "model_load_failed",
        f"{name} cannot be loaded: its files do not fit together, or the model type in config.json"
        f" is not supported ({type(error).__name__}; the log has more)",
        "model",
    )
