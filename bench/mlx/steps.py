"""What the backend's MLX thread did and when, from the trace that it writes."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# What keeps the device busy; all else is bookkeeping between two steps.
_WORK: Final = frozenset({"Prefill", "Decode", "Load"})


@dataclass(frozen=True, slots=True)
class Step:
    """One action of the MLX thread; times in nanoseconds of the system's performance counter."""

    name: str
    begun_ns: int
    took_ns: int
    ticket: int | None

    @property
    def ended_ns(self) -> int:
        """When it was over."""
        return self.begun_ns + self.took_ns

    @property
    def is_work(self) -> bool:
        """Whether it keeps others waiting."""
        return self.name in _WORK


@dataclass(frozen=True, slots=True)
class Wait:
    """How a request came to its own first step.

    `queue_ms` from its sending on, so with the time to read it as HTTP. `steps` is how many steps
    of others it waited for: the one under way when it came, and all that began after it had been
    let in. `since_sent` is how many began after it was sent, while it was read as HTTP too.
    """

    queue_ms: float
    steps: int
    since_sent: int


class TraceReader:
    """Reads on in a trace that is still being written, from its beginning or from what comes now.

    None is a trace without steps.
    """

    def __init__(self, path: Path | None, *, from_now: bool = False) -> None:
        self._path = path
        self._offset = path.stat().st_size if from_now and path else 0

    def read(self) -> list[Step]:
        """Return the steps since the last time."""
        if self._path is None:
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        return list(steps_of(whole.decode().splitlines()))


def steps_of(lines: Iterable[str]) -> Iterator[Step]:
    """Return the steps of a trace's lines."""
    for line in lines:
        if not line.startswith("{"):
            continue
        event = json.loads(line.rstrip(","))
        ticket = event["args"].get("ticket")
        yield Step(event["name"], round(event["ts"] * 1e3), round(event["dur"] * 1e3), ticket)


def wait_of(steps: Sequence[Step], sent_ns: int, first_ns: int) -> Wait | None:
    """Return how the newest request waited that was sent and got its first token in this time.

    None where the trace does not show it.
    """
    within = [step for step in steps if sent_ns <= step.begun_ns <= first_ns]
    admitted = [step for step in within if step.name == "Admit" and step.ticket is not None]
    if not admitted:
        return None
    admission = max(admitted, key=lambda step: step.ticket or 0)
    mine = (step for step in within if step.name == "Prefill" and step.ticket == admission.ticket)
    own = next(mine, None)
    if own is None:
        return None
    work = [step for step in steps if step.is_work and step.begun_ns < own.begun_ns]
    under_way = any(sent_ns < step.ended_ns <= admission.begun_ns for step in work)
    return Wait(
        (own.begun_ns - sent_ns) / 1e6,
        under_way + sum(step.begun_ns > admission.begun_ns for step in work),
        sum(step.begun_ns > sent_ns for step in work),
    )
