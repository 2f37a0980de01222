"""One local process and its owner: the only one who decides what happens to it.

Everyone else writes a wish down (`set_want`, `restart`, `close`, a place in the queue for a lease)
and wakes the owner. The owner runs one coroutine per state; each looks at the wishes and at the
child, and ends with a move that `backends.lifecycle` allows. Answers to callers are given when the
owner comes to rest, so that none is given on a state that is about to change.

The one thing done without the owner is a lease on a process that is READY and stays so: no
suspension lies between the look and the count.
"""

import asyncio
import logging
import math
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

from backends.callers import Callers
from backends.child import Child
from backends.child_log import ChildLog
from backends.leftover import RunRecord
from backends.lifecycle import check_move
from backends.listener import PortInUseError, describe_holder, open_listener
from backends.process_spec import ProcessSpec, Want
from backends.process_status import BackendStatus, History
from backends.setbacks import Failure, Setbacks
from backends.wire import BackendEvent, ProcessEvent
from backends.wire import ProcessState as S
from backends.wishes import Wishes

_KILLED_S = 6.0
_IDLE_LOOK_S = 0.01

_log = logging.getLogger(__name__)


class ManagedProcess:
    """A process, its wishes, its child. `own` is its owner's task."""

    def __init__(
        self,
        spec: ProcessSpec,
        record: RunRecord,
        emit: Callable[[ProcessEvent], None],
        clock: Callable[[], float],
    ) -> None:
        self._spec = spec
        self._record = record
        self._emit = emit
        self._clock = clock
        self._log = ChildLog(spec.log_path)
        self._changed = asyncio.Event()
        self._wishes = Wishes(self._changed.set)
        self._callers = Callers(self._changed.set)
        # The owner's own.
        self._state = S.STOPPED
        self._child: Child | None = None
        self._port = spec.port
        self._generation = 0
        self._leases = 0
        self._idle_since = 0.0
        self._started_at = 0.0
        self._setbacks = Setbacks(spec.restart, clock)
        self._failure_after_stop: Failure | None = None
        self._history = History()
        self._finished = False
        self._steps = {
            S.STOPPED: self._stopped,
            S.STARTING: self._starting,
            S.READY: self._ready,
            S.DRAINING: self._draining,
            S.STOPPING: self._stopping,
            S.BACKOFF: self._held,
            S.FATAL: self._held,
            S.BLOCKED: self._held,
        }

    def __repr__(self) -> str:
        counts = f"leases={self._leases} waiting={len(self._callers)}"
        run = f"wanted={self._wishes.want.value} generation={self._generation}"
        return f"<ManagedProcess {self._spec.name} {self._state} {run} {counts}>"

    # --- wishes -------------------------------------------------------------------------------

    def set_want(self, want: Want) -> None:
        """Say how much it is wanted from now on; the last word counts."""
        self._wishes.set_want(want)

    def renew(self, spec: ProcessSpec) -> None:
        """Be this from the next start on; a run under way is replaced once nobody uses it.

        On another port it is at once: nobody would find it there. What failed may try again.
        """
        before, self._spec = self._spec, spec
        self._setbacks.renew(spec.restart)
        if spec.launch != before.launch:
            self._wishes.ask_renewal(at_once=self._child is None or spec.port != before.port)

    def restart(self) -> None:
        """Ask for a fresh run: leases drain first, a failure is forgotten."""
        self._wishes.ask_restart()

    def close(self) -> None:
        """Ask the owner to stop the child and finish."""
        self._wishes.close()

    @property
    def is_ready(self) -> bool:
        """Whether a lease could be had at once."""
        ready = self._state is S.READY and not (self._wishes.must_stop or self._gone())
        return ready and (self._leases > 0 or not self._wishes.outdated)

    def take(self) -> int | None:
        """Take a lease at once and return its generation, or None: wait for one."""
        ready = self.is_ready
        self._leases += ready
        return self._generation if ready else None

    async def wait_lease(self) -> int:
        """Wait until the owner grants a lease; BackendUnavailable when it refuses."""
        return await self._callers.wait_lease(self.release)

    def release(self, generation: int) -> None:
        """Give a lease back; one of an earlier run counts for nothing."""
        if generation != self._generation:
            return
        self._leases -= 1
        if self._leases == 0:
            self._idle_since = self._clock()
            if self._state is S.DRAINING or self._wishes.outdated:
                self._changed.set()

    async def wait_for(self, what: Literal["ready", "gone"]) -> None:
        """Return once it is so; BackendUnavailable when "ready" cannot come by itself."""
        await self._callers.wait_state(what)

    def status(self) -> BackendStatus:
        """Return what can be told now; reads the child's memory from the system."""
        failure, child = self._setbacks.failure, self._child
        return BackendStatus(
            name=self._spec.name,
            state=self._state,
            pid=child.pid if child else None,
            port=self._port,
            memory_mb=child.memory_mb() if child else None,
            restarts=self._setbacks.restarts,
            leases=self._leases,
            generation=self._generation,
            history=self._history.moves,
            code=failure.code if failure else None,
            message=failure.message if failure else (child and child.progress) or "",
            models=child.models.loaded if child else (),
            loading=child.models.loading if child else None,
        )

    def logs(self) -> list[str]:
        """Return the last lines of the child's output."""
        return self._log.lines

    # --- the owner ----------------------------------------------------------------------------

    async def own(self) -> None:
        """Run the states until closed; whatever happens, no child is left without its guardian."""
        try:
            while not self._finished:
                try:
                    await self._steps[self._state]()
                except Exception as defect:  # noqa: BLE001 the named place of the owner loop
                    _log.exception("the owner of %s failed", self._spec.name)
                    await self._fall(defect)
                    self._finished = self._wishes.closing
        finally:
            if self._child is not None:
                self._child.close()
            self._log.close()
            self._callers.close()

    async def _fall(self, defect: Exception) -> None:
        if self._child is not None:
            await self._child.bury()
            self._child = None
        failure = Failure("backend_failed", f"{self._spec.name}: internal error: {defect}")
        self._state, reason = self._setbacks.doomed(failure, "this is a defect of the router")
        self._history.add(self._state, reason)
        # Not called here: it may be the defect itself.
        event = BackendEvent(self._spec.name, self._state, None, reason)
        asyncio.get_running_loop().call_soon(self._emit, event)

    async def _stopped(self) -> None:
        self._wishes.restart = False
        while not self._should_run():
            if self._wishes.closing:
                self._finished = True
                return
            await self._rest()
        self._move(
            S.STARTING, "wanted by the map" if self._wishes.want is Want.EAGER else "first lease"
        )

    async def _starting(self) -> None:
        self._wishes.restart, self._failure_after_stop = False, None
        timeouts = self._spec.timeouts
        self._started_at = self._clock()
        child = await self._spawn()
        if child is None:
            return
        hard = self._started_at + timeouts.start_s
        while not (child.ready or child.gone or child.failure):
            if self._wishes.restart or not self._should_run():
                self._move(S.STOPPING, "nobody wants it any more")
                return
            until = min(hard, child.heard_at + timeouts.stall_s)
            if self._clock() >= until:
                self._fail_start(child)
                return
            await self._rest(until)
        if child.gone or child.failure:
            await self._on_crash(child)
            return
        self._setbacks.ready()
        self._idle_since = self._clock()
        self._record.write((child.guardian_pid, child.pid))
        self._move(S.READY, f"ready after {self._clock() - self._started_at:.2f} s")

    async def _spawn(self) -> Child | None:
        """Bind the port and spawn; None after the move that a failure calls for."""
        spec, self._wishes.outdated = self._spec, False
        try:
            listener = open_listener(spec.host, spec.port)
        except PortInUseError:
            await self._block()
            return None
        except OSError as error:
            self._crash(f"cannot listen on {spec.host}:{spec.port}: {error.strerror}")
            return None
        self._setbacks.bound()
        self._port = listener.getsockname()[1]
        self._generation += 1
        self._leases = 0
        self._log.begin_run()
        try:
            self._child = Child.spawn(
                spec, listener, self._log, self._changed.set, self._clock, self._emit
            )
        except OSError as error:
            self._crash(f"cannot be started: {error.strerror}")
            return None
        self._record.write([self._child.guardian_pid])
        return self._child

    async def _block(self) -> None:
        holder = await asyncio.to_thread(describe_holder, self._spec.port)
        text = f"{self._spec.name} cannot start: {holder}. Free the port or configure another."
        self._move(*self._setbacks.blocked(Failure("backend_port_in_use", text)))

    def _fail_start(self, child: Child) -> None:
        elapsed_s = self._clock() - self._started_at
        text = f"{self._spec.name} was not ready after {elapsed_s:.1f} s{child.last_said}"
        self._stop_for(Failure("backend_start_timeout", text))

    async def _ready(self) -> None:
        child = self._living()
        while not child.gone:
            if self._wishes.must_stop:
                reason = "restart" if self._wishes.restart else "not wanted any more"
                self._move(S.DRAINING if self._leases else S.STOPPING, reason)
                return
            if self._wishes.outdated and not self._leases:
                self._move(S.STOPPING, "its settings have changed")
                return
            idle_at = self._idle_at()
            if self._clock() >= idle_at and not self._callers:
                self._move(S.STOPPING, f"idle for {self._spec.timeouts.idle_stop_s:g} s")
                return
            await self._rest(idle_at)
        await self._on_crash(child)

    async def _draining(self) -> None:
        child = self._living()
        deadline = self._clock() + self._spec.timeouts.drain_s
        while not child.gone:
            if not self._wishes.must_stop:
                self._move(S.READY, "wanted again")
                return
            if not self._leases or self._clock() >= deadline:
                self._move(S.STOPPING, f"{self._leases} leases left")
                return
            await self._rest(deadline)
        await self._on_crash(child)

    async def _stopping(self) -> None:
        child = self._living()
        child.terminate()
        deadline = self._clock() + self._spec.timeouts.stop_s
        while not child.gone and self._clock() < deadline:
            await self._rest(deadline)
        reason = "stopped"
        if not child.gone:
            child.kill()
            reason = f"killed: SIGTERM was ignored for {self._spec.timeouts.stop_s:g} s"
            deadline = self._clock() + _KILLED_S
            while not child.gone and self._clock() < deadline:
                await self._rest(deadline)
        await self._bury(child)
        failure, self._failure_after_stop = self._failure_after_stop, None
        if failure is not None:
            self._move(*self._setbacks.crashed(failure, started=self._started_at))
        else:
            self._move(S.STOPPED, reason)

    async def _held(self) -> None:
        """Nothing runs in BACKOFF, FATAL and BLOCKED: wait for the time, a person or the map."""
        assignment = self._wishes.assignment
        while self._clock() < self._setbacks.retry_at and not self._wishes.closing:
            asked = self._wishes.restart or assignment != self._wishes.assignment
            if asked or self._wishes.want is Want.NO:
                self._setbacks.forget()
                break
            await self._rest(self._setbacks.retry_at)
        self._move(S.STARTING if self._should_run() else S.STOPPED, "waited long enough")

    # --- the owner's means --------------------------------------------------------------------

    def _should_run(self) -> bool:
        on_demand = self._wishes.want is Want.ON_DEMAND and len(self._callers) > 0
        return not self._wishes.closing and (on_demand or self._wishes.want is Want.EAGER)

    def _gone(self) -> bool:
        return self._child is None or self._child.gone

    def _living(self) -> Child:
        if self._child is None:
            raise RuntimeError(f"{self!r} has no child")
        return self._child

    def _idle_at(self) -> float:
        """Return when to look for idleness: a release wakes nobody, it is on the hot path."""
        if self._wishes.want is Want.EAGER:
            return math.inf
        since = self._clock() + _IDLE_LOOK_S if self._leases else self._idle_since
        return since + self._spec.timeouts.idle_stop_s

    async def _on_crash(self, child: Child) -> None:
        if child.gone:
            await self._bury(child)
            self._crash(child.describe_end())
        else:
            # It said that it failed; what it has started must go before another run.
            self._stop_for(Failure("backend_failed", f"{self._spec.name} {child.describe_end()}"))

    def _crash(self, what: str) -> None:
        failure = Failure("backend_failed", f"{self._spec.name} {what}")
        self._move(*self._setbacks.crashed(failure, started=self._started_at))

    def _stop_for(self, failure: Failure) -> None:
        """Stop because of a failure: callers hear of it now, it is counted once nothing lives."""
        self._failure_after_stop = failure
        self._callers.refuse(*failure)
        self._move(S.STOPPING, failure.message)

    async def _bury(self, child: Child) -> None:
        await child.bury()
        self._record.remove()
        self._child = None

    def _move(self, to: S, reason: str) -> None:
        check_move(self._state, to)
        self._state = to
        self._history.add(to, reason)
        pid = self._child.pid if self._child else None
        self._emit(BackendEvent(self._spec.name, to, pid, reason))

    async def _rest(self, until: float = math.inf) -> None:
        """Answer whoever can be answered, then sleep until something changes or the clock is there.

        The caller has looked at everything since the event was last set: nothing is lost.
        """
        self._settle()
        self._changed.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(None if until == math.inf else until - self._clock()):
                await self._changed.wait()

    def _settle(self) -> None:
        """Grant, refuse or leave waiting, by the state that the owner rests in."""
        refusal = self._refusal()
        if refusal is not None:
            self._callers.refuse(*refusal, self._setbacks.retry_after_s)
        elif self._state is S.READY and not self._gone():
            self._leases += self._callers.grant(self._generation)
            self._callers.tell("ready")
        if refusal is not None and self._state is not S.BACKOFF:
            self._callers.tell("ready", refusal)
        if self._child is None:
            self._callers.tell("gone")

    def _refusal(self) -> Failure | None:
        held = self._setbacks.failure if self._state in {S.BACKOFF, S.FATAL, S.BLOCKED} else None
        return self._wishes.refusal(self._spec.name) or held
