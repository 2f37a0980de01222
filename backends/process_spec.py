"""What a local process is to be, and how much it is wanted."""

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from backends.lifecycle import RestartPolicy


class Want(Enum):
    """What the capability map asks of a process."""

    NO = "no"
    ON_DEMAND = "on_demand"
    EAGER = "eager"


@dataclass(frozen=True, slots=True)
class ProcessTimeouts:
    """Deadlines in seconds.

    `start_s` bounds a start as a whole, `stall_s` the time without progress in it; `drain_s` is
    given to leases, then `stop_s` to SIGTERM; `idle_stop_s` without a lease ends an on-demand run.
    """

    start_s: float = 300.0
    stall_s: float = 60.0
    drain_s: float = 30.0
    stop_s: float = 10.0
    idle_stop_s: float = 900.0


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """One local process: what to run and where it listens.

    In `argv`, "{socket_fd}" and "{ready_fd}" become the numbers of the inherited descriptors: the
    listening socket, and the pipe on which the child says {"progress": text}, {"ready": true} or
    {"failed": text}, one JSON object a line, and what becomes of its models
    (`backends.model_news`). `env` is the child's whole environment; it may hold a
    token, hence it is in no repr. Port 0 means any free one, a new one at each start.
    """

    name: str
    argv: tuple[str, ...]
    env: dict[str, str] = field(repr=False)
    cwd: Path
    host: str
    port: int
    log_path: Path
    timeouts: ProcessTimeouts = field(default_factory=ProcessTimeouts)
    restart: RestartPolicy = field(default_factory=RestartPolicy)

    @property
    def launch(self) -> tuple[object, ...]:
        """What a run has been given when it was started, and keeps to its end."""
        return self.argv, self.env, self.cwd, self.host, self.port
