"""How a provider is reached: upstream, breaker, the lane before it and the process behind it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from backends.process_manager import BackendUnavailable, Lease, ProcessManager
from backends.wire import Priority
from router.admission import Admission, Place
from router.breaker import Breaker
from router.catalog import Model
from router.deadline import Deadlines
from router.errors import RouteFailed
from router.room import Prompt, why_no_room
from router.upstream import Upstream
from router.window import Windows


class Use:
    """Who uses a Reach: entered by each request that does, as often as need be."""

    __slots__ = ("_when_unused", "count")

    def __init__(self) -> None:
        self.count = 0
        self._when_unused: Callable[[], None] | None = None

    def __repr__(self) -> str:
        return f"<Use {self.count}{'' if self._when_unused is None else ' to the last'}>"

    def __enter__(self) -> None:
        self.count += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.count -= 1
        if self.count == 0 and self._when_unused is not None:
            self._when_unused()

    def end(self, when_unused: Callable[[], None]) -> None:
        """Call `when_unused` once the last user has left; nobody new comes any more."""
        self._when_unused = when_unused
        if self.count == 0:
            when_unused()


@dataclass(frozen=True, slots=True)
class Reach:
    """One provider as requests meet it.

    `admission` is None where the provider orders its own work, `process` where it is not ours.
    `windows` are there where a prompt may be cut to one.
    """

    upstream: Upstream
    deadlines: Deadlines
    breaker: Breaker
    admission: Admission | None = None
    process: str | None = None
    windows: Windows | None = None
    use: Use = field(default_factory=Use)

    async def why_no_room(self, model: Model, prompt: Prompt) -> str | None:
        """Return why a model surely has no room for a prompt; None where it may have."""
        windows = self.windows
        window = None if windows is None else windows.known(model.id)
        if windows is not None and prompt.exceeds(window):
            window = await windows.of(model.id, prompt.size)
        return why_no_room(model, prompt, window)


class NoPlace:
    """The place before a provider that has no lane."""

    waited_s = 0.0

    async def __aenter__(self) -> Self:
        """Enter at once."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


def place(reach: Reach, priority: Priority) -> Place | NoPlace:
    """Return the place that a request of this priority takes before this provider."""
    return NoPlace() if reach.admission is None else reach.admission.place(priority)


class Ready:
    """Holds the model's process ready while entered."""

    def __init__(self, reach: Reach, model: Model, processes: ProcessManager) -> None:
        self._reach = reach
        self._model = model
        self._processes = processes
        self._lease: Lease | None = None

    async def __aenter__(self) -> Self:
        """Make the process ready, starting it if the map lets it live.

        Raises RouteFailed with the reason why it cannot be: not downloaded, port taken, crashed …
        """
        name = self._reach.process
        if name is None:
            return self
        if not self._model.present:
            raise RouteFailed(
                "model_not_downloaded",
                f"{self._model.name} is not on this machine yet. "
                f"Fetch it: signalbox models pull {self._model.id}",
            )
        lease = self._processes.lease(name)
        try:
            await lease.__aenter__()
        except BackendUnavailable as error:
            raise RouteFailed(
                error.code, error.message, retry_after_s=error.retry_after_s
            ) from error
        self._lease = lease
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let the process go."""
        if self._lease is not None:
            await self._lease.__aexit__(kind, error, traceback)
