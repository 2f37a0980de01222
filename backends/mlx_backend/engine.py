"""The one MLX thread: it loads, reads prompts, decodes, pauses and unloads, one unit a step.

MLX's streams belong to a thread, so nothing else may touch a model.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, replace

import mlx.core as mx

from backends.mlx_backend.actions import (
    Action,
    Admit,
    Decode,
    Drop,
    Expire,
    Load,
    Pause,
    Prefill,
    Rest,
    Resume,
    Unload,
    Wait,
)
from backends.mlx_backend.desk import Desk
from backends.mlx_backend.errors import ChatError
from backends.mlx_backend.generation import Admitted, Failed
from backends.mlx_backend.loaded import LoadedModels
from backends.mlx_backend.rows import Ended, ModelRows, refusal
from backends.mlx_backend.trace import Trace
from backends.wire import (
    LoadPhase,
    ModelLoaded,
    ModelLoadFailed,
    ModelLoading,
    ModelNews,
    ModelUnloaded,
    UnloadReason,
)

log = logging.getLogger(__name__)

# How often those who are served, though not by each step, hear that the engine goes on.
_BEAT_S = 1.0
_RETRY_AFTER_S = 5


class Engine:
    """Does what the desk says with the models that are loaded; all of it on one thread.

    `tell` hears what becomes of models; it must not block. What a step tells its clients is told
    inside `together`.
    """

    def __init__(
        self,
        desk: Desk,
        models: LoadedModels,
        trace: Trace | None = None,
        tell: Callable[[ModelNews], object] = lambda _news: None,
        *,
        together: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._desk = desk
        self._models = models
        self._trace = trace
        self._tell = tell
        self._together = together
        self._beat_at = 0.0

    def __repr__(self) -> str:
        return f"<Engine {self._desk!r} {self._models!r}>"

    def run(self, ready: Callable[[], None]) -> None:
        """Serve until the desk is stopped; `ready` is called once MLX has evaluated something."""
        try:
            mx.eval(mx.array(1.0) + 1.0)
            ready()
            while not self._desk.stopping:
                with self._together():
                    pause = self.step()
                if pause is not None:
                    self._desk.wait(pause.until)
        finally:
            self._close()

    def step(self) -> Wait | None:
        """Advance by one unit: a load, a picture, a chunk of a prompt, a token for each row.

        Returns how long there is nothing to do, or None when there may be more.
        """
        for ticket in self._desk.cancelled():
            self._end(ticket, None)
        action = self._desk.next()
        if isinstance(action, Wait):
            return action
        with self._traced(action):
            error = self._attempt(action)
        if error is not None:
            self._recover(action, error)
        self._beat()
        self._desk.done(self._models.memory_mb, replace(self._models.totals))
        return None

    def _traced(self, action: Action) -> AbstractContextManager[None]:
        if self._trace is None:
            return nullcontext()
        details = asdict(action)
        if "model" in details:
            details["model"] = self._desk.model(details["model"]).name
        if isinstance(action, Decode):
            details["tickets"] = self._models[action.model].taking_part(action.alone)
        return self._trace.step(type(action).__name__, **details)

    def _attempt(self, action: Action) -> Exception | None:
        """Perform an action; what goes wrong with it is returned, so that nothing holds on to it.

        A failure, whatever it is, ends the requests concerned and no others.
        """
        try:
            self._perform(action)
        except ChatError as error:
            return error
        except Exception as error:
            # MLX and model code fail in any way there is. Logged with its stack and converted.
            log.exception("%s failed", action)
            return error.with_traceback(None)
        return None

    def _perform(self, action: Action) -> None:
        match action:
            case Load(model=key):
                self._load(key)
            case Unload(model=key, reason=reason):
                self._unload(key, reason)
            case Decode(model=key, alone=alone):
                self._decode(self._models[key], alone)
            case Rest():
                self._models.rest()
            case Admit(ticket=ticket):
                self._admit(ticket)
            case Expire(ticket=ticket):
                text = "no place became free in time; try again later"
                error = ChatError("queue_timeout", text, retry_after_s=_RETRY_AFTER_S)
                self._desk.finish(ticket, Failed(error))
            case _:
                self._move(action)

    def _decode(self, rows: ModelRows, alone: int | None) -> None:
        for ended in rows.decode(alone):
            self._end(ended.ticket, ended)
        self._desk.on_cache_sizes({one: rows.cache_mb(one) for one in rows.taking_part(alone)})
        if alone is not None and rows.is_acquitted(alone):
            self._desk.on_acquitted(alone)
            if not rows.rejoin(alone):
                self._desk.on_lost(alone)

    def _move(self, action: Action) -> None:
        """Take a row that is served one step on, out of its batch, or back."""
        match action:
            case Prefill(ticket=ticket):
                rows = self._models.of(ticket)
                whole = rows.prefill(ticket)
                self._desk.on_cache_sizes({ticket: rows.cache_mb(ticket)})
                if whole:
                    self._desk.on_prefilled(ticket)
            case Pause(ticket=ticket):
                if not self._models.of(ticket).pause(ticket):
                    self._desk.on_lost(ticket)
            case Resume(ticket=ticket):
                self._models.of(ticket).resume(ticket)
            case Drop(ticket=ticket):
                self._models.of(ticket).drop(ticket)

    def _recover(self, action: Action, error: Exception) -> None:
        match action:
            case Load(model=key):
                failed = _load_failed(self._desk.model(key).name, error)
                log.warning("%s", failed.message)
                self._tell(ModelLoadFailed(self._desk.model(key).name, failed.message))
                self._desk.on_load_failed(key, failed)
            case Decode(model=key, alone=alone):
                lost = self._models[key].rebuild(error, alone)
                for ended in lost.ended:
                    self._end(ended.ticket, ended)
                for ticket in lost.again:
                    self._desk.on_lost(ticket, suspected=ticket in lost.suspected)
            case Unload() | Expire() | Rest() | Wait():
                pass  # concerns no row
            case _:
                self._end(action.ticket, Ended(action.ticket, refusal(error)))

    def _load(self, key: str) -> None:
        known = self._desk.model(key)
        begun = time.monotonic()

        def progress(phase: LoadPhase, done: float) -> None:
            percent = int(100 * done)
            if self._desk.on_load_progress(phase, percent):
                self._tell(ModelLoading(known.name, phase, percent))

        self._tell(ModelLoading(known.name, LoadPhase.PREPARING, 0))
        with self._beating():
            self._models.load(key, known.name, known.folder, known.size_mb, progress)
        load_s = time.monotonic() - begun
        log.info("loaded %s in %.1f s", known.name, load_s)
        why = self._models.why_serial
        if why:
            log.error("one generation at a time from now on: %s", why)
        self._tell(ModelLoaded(known.name, round(load_s, 3)))
        self._desk.on_loaded(key, why)

    def _unload(self, key: str, reason: UnloadReason) -> None:
        name = self._desk.model(key).name
        try:
            self._models.unload(key)
        finally:
            self._tell(ModelUnloaded(name, reason))
            self._desk.on_unloaded(key, self._models.memory_mb, self._models.why_serial)
        log.info("unloaded %s (%s)", name, reason)

    def _admit(self, ticket: int) -> None:
        request = self._desk.request(ticket)
        if request is None:
            return  # stopped a moment ago
        request.sink(Admitted())
        self._models.wake()
        rows = self._models[request.model]
        rows.admit(ticket, request.generation, request.sink)
        self._desk.on_cache_sizes({ticket: rows.cache_mb(ticket)})

    def _end(self, ticket: int, ended: Ended | None) -> None:
        try:
            self._models.remove(ticket)
        except Exception:
            # Memory that runs out while a cache is copied, for one: the row has ended all the same.
            log.exception("the cache of a row that ended could not be kept")
        self._desk.finish(ticket, None if ended is None else ended.event)

    def _beat(self) -> None:
        now = time.monotonic()
        if now - self._beat_at >= _BEAT_S:
            self._beat_at = now
            self._models.beat()

    @contextmanager
    def _beating(self) -> Iterator[None]:
        """Beat from another thread: a load may take minutes, longer than clients wait for a step.

        No row comes or goes meanwhile, and sinks may be called on any thread.
        """
        over = threading.Event()

        def beat() -> None:
            while not over.wait(_BEAT_S):
                self._models.beat()

        beats = threading.Thread(target=beat, name="beats", daemon=True)
        beats.start()
        try:
            yield
        finally:
            over.set()
            beats.join()

    def _close(self) -> None:
        # Each of them is done, whatever comes of the others; from the last to the first.
        with ExitStack() as ending:
            # MLX aborts the process at exit if a thread leaves its streams behind.
            ending.callback(mx.clear_streams)
            if self._trace is not None:
                ending.callback(self._trace.close)
            ending.callback(self._models.close)
            self._desk.stop()


def _load_failed(name: str, error: Exception) -> ChatError:
    if isinstance(error, ChatError):
        return error
    if isinstance(error, MemoryError) or "allocate" in str(error):
        text = "there is not enough memory for it; end other programs, or choose a smaller one"
        return ChatError("model_load_failed", f"{name} cannot be loaded: {text}", "model")
    return ChatError(
        "model_load_failed",
        f"{name} cannot be loaded: its files do not fit together, or the model type in config.json"
        f" is not supported ({type(error).__name__}; the log has more)",
        "model",
    )
