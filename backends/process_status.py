"""What can be told of a local process."""

from dataclasses import dataclass

from backends.wire import ProcessState


@dataclass(frozen=True, slots=True)
class Move:
    """A state that was entered, when (seconds since the epoch) and why."""

    at: float
    state: ProcessState
    reason: str


@dataclass(frozen=True, slots=True)
class BackendStatus:
    """One process now.

    `code` and `message` are of the failure that keeps it down; while it starts, `message` is what
    it last said of its progress. `port` is where it listens, `memory_mb` the child's own resident
    MiB, `restarts` counts starts after a failure, `generation` all starts.
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
