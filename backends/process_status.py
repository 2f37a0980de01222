"""What can be told of a local process."""

import time
from collections import deque
from dataclasses import dataclass

from backends.wire import ModelLoading, ProcessState

_HISTORY = 50


@dataclass(frozen=True, slots=True)
class Move:
    """A state that was entered, when (seconds since the epoch) and why."""

    at: float
    state: ProcessState
    reason: str


class History:
    """The last states of a process."""

    def __init__(self) -> None:
        self._moves: deque[Move] = deque(maxlen=_HISTORY)

    def add(self, state: ProcessState, reason: str) -> None:
        """Take note that a state is entered now."""
        self._moves.append(Move(time.time(), state, reason))

    @property
    def moves(self) -> tuple[Move, ...]:
        """The states, first the oldest."""
        return tuple(self._moves)


@dataclass(frozen=True, slots=True)
class BackendStatus:
    """One process now.

    `code` and `message` are of the failure that keeps it down; while it starts, `message` is what
    it last said of its progress. `port` is where it listens, `memory_mb` the child's own resident
    MiB, `restarts` counts starts after a failure, `generation` all starts. `models` are those that
    it says are in its memory, first the one that was loaded first; `loading` is how far a load is.
    """

    name: str
    state: ProcessState
    pid: int | None
    port: int
    memory_mb: float | None
    restarts: int
    leases: int
    generation: int
    history: tuple[Move, ...]
    code: str | None
    message: str
    models: tuple[str, ...]
    loading: ModelLoading | None
