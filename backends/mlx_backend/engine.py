"""The one MLX thread: it loads, prefills, decodes and unloads, one unit a step.

`submit`, `cancel`, `unload`, `status` and `stop` may be called from any thread; everything else
runs on the thread that called `run`. MLX's streams belong to a thread, so nothing else may touch
the model.
"""

import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from backends.mlx_backend.errors import ChatError
from backends.mlx_backend.generation import (
    Admitted,
    Begun,
    EngineStatus,
    Event,
    Failed,
    Generation,
    Progress,
    Sink,
)
from backends.mlx_backend.models import LoadedModel, give_back_memory
from backends.mlx_backend.prompt import prepare
from backends.mlx_backend.row import Row
from backends.mlx_backend.sampling import RowSampler
from backends.mlx_backend.scheduler import (
    Action,
    Admit,
    Advance,
    BusyError,
    Load,
    QueueFullError,
    Scheduler,
    Unload,
    Wait,
)

log = logging.getLogger(__name__)

_MIB = 1024 * 1024
_RETRY_AFTER_S = 2


@dataclass(frozen=True, slots=True)
class _Request:
    """A generation from its submission to its end."""

    generation: Generation
    sink: Sink


class Engine:
    """Owner of model, caches and batch.

    `scheduler` decides, guarded by a lock that is never held while MLX works, so that submitting
    and cancelling never wait for a step. `rows` is how many generations share a batch, `chunk_s`
    how long a chunk of a prompt may take.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        rows: int,
        chunk_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._scheduler = scheduler
        self._rows_limit = rows
        self._chunk_s = chunk_s
        self._clock = clock
        self._wake = threading.Event()
        # Everything down to the blank line is shared and guarded by the lock. The scheduler knows
        # a model by its folder, so that all its names are one model.
        self._lock = threading.Lock()
        self._requests: dict[int, _Request] = {}
        self._models: dict[str, tuple[str, Path]] = {}
        self._cancelled: set[int] = set()
        self._unloaded_callbacks: list[Callable[[], object]] = []
        self._stopping = False
        self._loading = False
        self._loads = 0
        self._memory_mb = 0.0

        # The MLX thread's own.
        self._model: LoadedModel | None = None
        self._rows: dict[int, Row] = {}

    def __repr__(self) -> str:
        return f"<Engine {self._scheduler!r} loading={self._loading} stopping={self._stopping}>"

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
                ticket = self._scheduler.submit(key, generation.priority)
            except QueueFullError:
                text = f"{self._scheduler.queued} requests wait already; try again later"
                raise ChatError("queue_full", text, retry_after_s=_RETRY_AFTER_S) from None
            self._requests[ticket] = _Request(generation, sink)
        self._wake.set()
        return ticket

    def preload(self, model: str, folder: Path) -> None:
        """Have a model loaded before anyone asks for it."""
        with self._lock:
            self._scheduler.preload(self._know(model, folder))
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
        """Have the model unloaded; `done` is called on the MLX thread when its memory is back.

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
            return EngineStatus(
                state="loading" if self._loading else "loaded" if loaded else "idle",
                model=self._models[loaded][0] if loaded else None,
                queue=self._scheduler.queued,
                active=self._scheduler.running,
                memory_mb=self._memory_mb,
                loads=self._loads,
            )

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
        self._models.setdefault(key, (name, folder))
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
        """Advance by one unit: a load, an image encode, a prefill chunk, a decode step, an unload.

        Returns how long there is nothing to do, or None when there may be more.
        """
        with self._lock:
            action = self._scheduler.next(self._clock())
            self._loading = isinstance(action, Load)
        if isinstance(action, Wait):
            return action
        error = self._attempt(action)
        if error is not None:
            self._recover(action, error)
        memory_mb = _memory_mb()
        with self._lock:
            self._loading = False
            self._memory_mb = memory_mb
        return None

    def _attempt(self, action: Action) -> ChatError | None:
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
            kind = type(error).__name__
        else:
            return None
        if isinstance(action, Load):
            name = self._models[action.model][0]
            return ChatError(
                "model_load_failed",
                f"{name} cannot be loaded: its files do not fit together, or the model type in"
                f" config.json is not supported ({kind}; the log has more)",
                "model",
            )
        return ChatError(
            "generation_failed", f"the model failed while generating ({kind}; the log has more)"
        )

    def _perform(self, action: Action) -> None:
        self._drop_cancelled()
        match action:
            case Load(model=key):
                self._load(key)
            case Unload():
                self._unload()
            case Admit(ticket=ticket):
                self._admit(ticket)
            case Advance():
                self._advance()

    def _recover(self, action: Action, error: ChatError) -> None:
        match action:
            case Load(model=key):
                with self._lock:
                    tickets = self._scheduler.on_load_failed(key)
                log.warning("%s", error.message)
                for ticket in tickets:
                    self._fail(ticket, error)
                give_back_memory()
            case Admit(ticket=ticket):
                self._fail(ticket, error)
            case Advance():
                for ticket in list(self._rows):
                    self._fail(ticket, error)
                self._loaded_model().reopen()

    def _load(self, key: str) -> None:
        name, folder = self._models[key]
        begun = self._clock()
        self._model = LoadedModel(name, folder, rows=self._rows_limit, chunk_s=self._chunk_s)
        with self._lock:
            self._loads += 1
            self._scheduler.on_loaded(key, self._clock())
        log.info("loaded %s in %.1f s", name, self._clock() - begun)

    def _unload(self) -> None:
        model = self._loaded_model()
        try:
            model.close()
        finally:
            self._model = None
            memory_mb = _memory_mb()
            with self._lock:
                self._scheduler.on_unloaded()
                self._memory_mb = memory_mb
                callbacks, self._unloaded_callbacks = self._unloaded_callbacks, []
            for callback in callbacks:
                callback()
        log.info("unloaded %s", model.name)

    def _admit(self, ticket: int) -> None:
        model = self._loaded_model()
        with self._lock:
            request = self._requests.get(ticket)
        if request is None:
            return  # stopped a moment ago
        generation = request.generation
        prompt = prepare(model, generation)
        wanted = generation.sampling
        plan = model.plan(wanted, secrets.randbits(63) if wanted.seed is None else wanted.seed)
        room = model.context_length - len(prompt.ids)
        (uid,) = model.generator.insert(
            [prompt.ids],
            max_tokens=[min(generation.max_tokens or room, room)],
            prompt_kwargs=[prompt.embeddings],
            # No processor means argmax.
            logits_processors=[None if plan.greedy else [RowSampler(plan)]],
        )
        self._rows[ticket] = Row(
            uid, len(prompt.ids), sink=request.sink, decode=model.decode, stop=generation.stop
        )
        request.sink(Admitted())
        request.sink(Begun(len(prompt.ids), 0, thinking=False))

    def _advance(self) -> None:
        generator = self._loaded_model().generator
        _, responses = generator.next()
        by_uid = {response.uid: response for response in responses}
        for ticket, row in list(self._rows.items()):
            response = by_uid.get(row.uid)
            if response is None:
                row.sink(Progress())
                continue
            event, end = row.take(response.token, response.finish_reason)
            row.sink(event)
            if end is not None:
                if response.finish_reason is None:
                    generator.remove(row.uid)
                self._end(ticket, end)

    def _drop_cancelled(self) -> None:
        with self._lock:
            cancelled = list(self._cancelled)
        for ticket in cancelled:
            row = self._rows.get(ticket)
            if row is not None:
                self._loaded_model().generator.remove(row.uid)
            self._end(ticket, None)

    def _fail(self, ticket: int, error: ChatError) -> None:
        self._end(ticket, Failed(error))

    def _end(self, ticket: int, event: Event | None) -> None:
        self._rows.pop(ticket, None)
        with self._lock:
            request = self._requests.pop(ticket, None)
            self._cancelled.discard(ticket)
            self._scheduler.on_ended(ticket, self._clock())
        if request is not None and event is not None:
            request.sink(event)

    def _loaded_model(self) -> LoadedModel:
        if self._model is None:
            raise RuntimeError("the scheduler runs rows of a model that is not loaded")
        return self._model

    def _close(self) -> None:
        self.stop()
        self._rows.clear()
        if self._model is not None:
            self._model.close()
            self._model = None
        # MLX aborts the process at exit if a thread leaves its streams behind.
        mx.clear_streams()


def _memory_mb() -> float:
    held: int = mx.get_active_memory() + mx.get_cache_memory()
    return held / _MIB


def _shutting_down() -> ChatError:
    return ChatError("shutting_down", "the backend is shutting down")
