"""The local processes as a whole: what is desired is made so, leases are handed out.

manager = ProcessManager(specs, run_dir=…, emit=…)
async with manager:                        # ends what a killed router left, starts the owners
    manager.set_desired({"builtin": Want.EAGER})
    async with manager.lease("builtin"):   # started if need be, kept alive until released
        …
                                           # leaving stops every child: drain, TERM, KILL, reap
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from backends.callers import BackendUnavailable
from backends.leftover import RunRecord, end_leftovers
from backends.lifecycle import RestartPolicy
from backends.managed_process import ManagedProcess
from backends.process_spec import ProcessSpec, ProcessTimeouts, Want
from backends.process_status import BackendStatus, Move
from backends.wire import ProcessEvent

__all__ = [
    "BackendStatus",
    "BackendUnavailable",
    "Lease",
    "Move",
    "ProcessManager",
    "ProcessSpec",
    "ProcessTimeouts",
    "RestartPolicy",
    "Want",
]


class Lease:
    """A promise that the process stays up: taken on entering, given back on leaving.

    Entering starts the process if need be (a hundred callers, one spawn) and raises
    BackendUnavailable when that is refused or fails.
    """

    __slots__ = ("_process", "generation")

    def __init__(self, process: ManagedProcess) -> None:
        self._process = process
        self.generation = 0

    async def __aenter__(self) -> Self:
        generation = self._process.take()
        if generation is None:
            generation = await self._process.wait_lease()
        self.generation = generation
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.release(self.generation)


class ProcessManager:
    """All local processes, each with its owner task; an async context manager."""

    def __init__(
        self,
        specs: Iterable[ProcessSpec],
        *,
        run_dir: Path,
        emit: Callable[[ProcessEvent], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run_dir = run_dir
        self._emit = emit
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._owners: list[asyncio.Task[None]] = []
        self._waking: dict[str, asyncio.Task[None]] = {}
        self._processes = {spec.name: self._process(spec) for spec in specs}

    def __repr__(self) -> str:
        return f"<ProcessManager {list(self._processes.values())}>"

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(self._run_dir.glob("*.json")):
            await asyncio.to_thread(end_leftovers, self._run_dir)
        for name, process in self._processes.items():
            self._begin(name, process)
        return self

    def _process(self, spec: ProcessSpec) -> ManagedProcess:
        return ManagedProcess(spec, RunRecord(self._run_dir, spec.name), self._emit, self._clock)

    def _begin(self, name: str, process: ManagedProcess) -> None:
        owner = asyncio.create_task(  # noqa: TID251 owned here, awaited in __aexit__
            process.own(), name=f"owner of {name}"
        )
        self._owners.append(owner)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop every child; a cancellation meanwhile leaves that to the guardians."""
        for process in self._processes.values():
            process.close()
        try:
            await asyncio.gather(*self._owners, *self._waking.values())
        finally:
            self._owners.clear()

    def renew(self, specs: Iterable[ProcessSpec]) -> None:
        """Make these the processes that may live; on the loop's thread, with the manager entered.

        A run that was started otherwise is replaced once nobody uses it. What is not named any more
        is known on, and wanted by nobody.
        """
        for spec in specs:
            process = self._processes.get(spec.name)
            if process is not None:
                process.renew(spec)
                continue
            self._processes[spec.name] = process = self._process(spec)
            self._begin(spec.name, process)

    def set_desired(self, desired: Mapping[str, Want]) -> None:
        """Make this the whole truth: a process that is not named is not wanted.

        Idempotent, the last call counts. May be called from any thread; it only writes wishes, and
        whoever spawns is always the loop's thread. KeyError for a name that no spec has.
        """
        unknown = desired.keys() - self._processes.keys()
        if unknown:
            raise KeyError(", ".join(sorted(unknown)))
        wants = {name: desired.get(name, Want.NO) for name in self._processes}
        if self._loop is None or self._loop is _running_loop():
            self._apply(wants)
        else:
            self._loop.call_soon_threadsafe(self._apply, wants)

    def _apply(self, wants: Mapping[str, Want]) -> None:
        for name, want in wants.items():
            self._processes[name].set_want(want)

    def lease(self, name: str) -> Lease:
        """Return a lease to enter; KeyError for a name that no spec has."""
        return Lease(self._processes[name])

    def is_ready(self, name: str) -> bool:
        """Tell whether a lease could be had at once; KeyError for a name that no spec has."""
        return self._processes[name].is_ready

    def wake(self, name: str) -> None:
        """Have a process started, where it may live, without waiting for it; harmless twice.

        KeyError for a name that no spec has.
        """
        if name not in self._waking:
            self._waking[name] = task = asyncio.create_task(  # noqa: TID251 awaited in __aexit__
                _wake(self.lease(name)), name=f"wake {name}"
            )
            task.add_done_callback(lambda _: self._waking.pop(name))

    def status(self, name: str) -> BackendStatus:
        """Return what can be told of one process."""
        return self._processes[name].status()

    def statuses(self) -> list[BackendStatus]:
        """Return what can be told of all, in the order of the specs."""
        return [process.status() for process in self._processes.values()]

    async def wait_for(self, name: str, what: Literal["ready", "gone"]) -> None:
        """Return when it is so: "ready" serves, "gone" has no process.

        BackendUnavailable when "ready" will not come by itself: failed for good, blocked, not
        wanted. It looks only: an on-demand process is started by a lease. Unbounded otherwise.
        """
        await self._processes[name].wait_for(what)

    def restart(self, name: str) -> None:
        """Ask for a fresh run: leases drain first, a failure is forgotten."""
        self._processes[name].restart()

    def logs(self, name: str) -> list[str]:
        """Return the last lines of a child's output."""
        return self._processes[name].logs()


async def _wake(lease: Lease) -> None:
    # Whoever asks for it next is told why it does not come.
    with suppress(BackendUnavailable):
        async with lease:
            pass


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
