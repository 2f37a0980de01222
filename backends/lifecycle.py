"""Where a local process may go from where it stands, and when a crashed one is started again.

Pure: no clock, no process. `backends.managed_process` owns the state and asks here.

    STOPPED  ──▶ STARTING ──▶ READY ──▶ DRAINING ──▶ STOPPING ──▶ STOPPED
                  │ │ │          │  ◀──── wanted again     │
                  │ │ └ nobody wants it, or too slow ──▶───┤
                  │ └ crash ─▶ BACKOFF ─▶ STARTING         └▶ BACKOFF, FATAL (it had failed)
                  └ port taken ─▶ BLOCKED ─▶ STARTING

FATAL is left by a person or by a new assignment only. A defect of the owner leads to FATAL from
anywhere. Whatever is not in the table is an error.
"""

from dataclasses import dataclass

from backends.wire import ProcessState as S

_JITTER = 0.2

MOVES: dict[S, frozenset[S]] = {
    S.STOPPED: frozenset({S.STARTING, S.FATAL}),
    S.STARTING: frozenset({S.READY, S.STOPPING, S.BACKOFF, S.BLOCKED, S.STOPPED, S.FATAL}),
    S.READY: frozenset({S.DRAINING, S.STOPPING, S.BACKOFF, S.FATAL}),
    S.DRAINING: frozenset({S.READY, S.STOPPING, S.STOPPED, S.BACKOFF, S.FATAL}),
    S.STOPPING: frozenset({S.STOPPED, S.BACKOFF, S.FATAL}),
    S.BACKOFF: frozenset({S.STARTING, S.STOPPED, S.FATAL}),
    S.FATAL: frozenset({S.STARTING, S.STOPPED}),
    S.BLOCKED: frozenset({S.STARTING, S.STOPPED, S.FATAL}),
}


class IllegalMoveError(Exception):
    """A move that the table does not know: a defect of the owner, never of a caller."""


def check_move(current: S, to: S) -> None:
    """Return if the move is legal, else raise IllegalMoveError."""
    if to not in MOVES[current]:
        raise IllegalMoveError(f"{current.name} → {to.name}")


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """How often a crashing process is started, in seconds and starts."""

    backoff_max_s: float = 60.0
    window_s: float = 300.0
    starts_per_window: int = 5


def backoff_s(policy: RestartPolicy, failures: int, jitter: float) -> float:
    """Return the pause after the n-th failure in a row: 1, 2, 4 … s ± 20 %, at most the maximum.

    `jitter` lies in [0, 1): several processes that died together do not come back together.
    """
    base = 2.0 ** min(failures - 1, 30)
    return min(policy.backoff_max_s, base * (1 - _JITTER + 2 * _JITTER * jitter))


@dataclass(frozen=True, slots=True)
class Crashes:
    """The failed runs that still count: the clock times of their starts, oldest first."""

    starts: tuple[float, ...] = ()

    def after(self, policy: RestartPolicy, *, started: float, ended: float) -> "Crashes":
        """Count one more; a run longer than the window makes everything before it forgotten."""
        if ended - started > policy.window_s:
            return Crashes((started,))
        recent = tuple(at for at in self.starts if ended - at <= policy.window_s)
        return Crashes((*recent, started))

    def pause_s(self, policy: RestartPolicy, jitter: float) -> float | None:
        """Return the pause before the next start, or None: give up."""
        if len(self.starts) >= policy.starts_per_window:
            return None
        return backoff_s(policy, len(self.starts), jitter)
