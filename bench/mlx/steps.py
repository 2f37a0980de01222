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
    """One action of the MLX thread, or what came to it; nanoseconds of the performance counter."""

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
    """How a request came to its own first step, from when it had been read and stood in the queue.

    `steps` is how many steps of others it waited for: the one under way when it came, and those
    that began before its own.
    """

    queue_ms: float
    steps: int


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
        # What only came, a submission, takes no time.
        begun_ns, took_ns = round(event["ts"] * 1e3), round(event.get("dur", 0) * 1e3)
        yield Step(event["name"], begun_ns, took_ns, event["args"].get("ticket"))


def wait_of(steps: Sequence[Step], sent_ns: int, first_ns: int) -> Wait | None:
    """Return how the newest request waited that was sent and got its first token in this time.

    None where the trace does not show it.
    """
    within = [step for step in steps if sent_ns <= step.begun_ns <= first_ns]
    submitted = [step for step in within if step.name == "Submit" and step.ticket is not None]
    if not submitted:
        return None
    came = max(submitted, key=lambda step: step.ticket or 0)
    mine = (step for step in within if step.name == "Prefill" and step.ticket == came.ticket)
    own = next(mine, None)
    if own is None:
        return None
    waited_for = [
        step
        for step in steps
        if step.is_work and step.ended_ns > came.begun_ns and step.begun_ns < own.begun_ns
    ]
    return Wait((own.begun_ns - came.begun_ns) / 1e6, len(waited_for))
