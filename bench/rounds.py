"""What is measured in which order: every target in turn, so that all of them share the weather."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import exchange
from bench.load import Load, LoadFailed, Wrk, ask_once, script
from bench.paced_server import events_in
from bench.servers import Failure
from bench.startup import Startup, start_once
from bench.streams import Streams, StreamsFailed, read_streams
from bench.target import Target

CONNECTIONS: Final = (1, 32)
STREAMS: Final = (100, 500)
SCENARIOS: Final = ("requests", "streams", "image", "start", "decisions")
# The one at a time that a person sends.
_IMAGE_CONNECTIONS: Final = 1
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured: rounds of each kind, seconds of one, starts, decisions in a batch."""

    rounds: int
    request_s: int
    stream_rounds: int
    stream_s: int
    image_rounds: int
    image_s: int
    starts: int
    decision_rounds: int
    decisions: int


FULL: Final = Plan(
    rounds=5,
    request_s=3,
    stream_rounds=3,
    stream_s=3,
    image_rounds=3,
    image_s=3,
    starts=5,
    decision_rounds=5,
    decisions=1_000,
)
QUICK: Final = Plan(
    rounds=1,
    request_s=1,
    stream_rounds=1,
    stream_s=1,
    image_rounds=1,
    image_s=1,
    starts=1,
    decision_rounds=1,
    decisions=200,
)


@dataclass(frozen=True, slots=True)
class LoadRound:
    """One round of requests through one target; the CPU seconds are its proxy's, if it has one."""

    round: int
    target: str
    connections: int
    load: Load
    cpu_s: float | None

    @property
    def cpu_us(self) -> float | None:
        """CPU microseconds of the proxy per request."""
        return self.cpu_s / self.load.requests * 1e6 if self.cpu_s else None

    @property
    def core_share(self) -> float | None:
        """The part of one core that the proxy used."""
        return self.cpu_s / self.load.seconds if self.cpu_s else None


@dataclass(frozen=True, slots=True)
class StreamRound:
    """One round of `count` streams through one target; `sent` events were to arrive."""

    round: int
    target: str
    count: int
    sent: int
    streams: Streams
    cpu_s: float | None

    @property
    def per_cpu_s(self) -> float | None:
        """Events per CPU second of the proxy."""
        return self.streams.events / self.cpu_s if self.cpu_s else None

    @property
    def core_share(self) -> float | None:
        """The part of one core that the proxy used."""
        return self.cpu_s / self.streams.seconds if self.cpu_s else None


class Rounds:
    """Measures targets in turn; one that fails is left out of that scenario from then on."""

    def __init__(
        self, targets: Sequence[Target], plan: Plan, wrk: Wrk, folder: Path, say: Progress
    ) -> None:
        self.failures: list[Failure] = []
        self._failed: set[tuple[str, str]] = set()
        self._targets = targets
        self._plan = plan
        self._wrk = wrk
        self._folder = folder
        self._say = say

    def requests(self) -> Iterator[LoadRound]:
        """Measure requests, one connection and many."""
        plan = self._plan
        scenarios = {f"requests, c={connections}": connections for connections in CONNECTIONS}
        # Its connections, caches and memory are then as they stay.
        scripts = self._scripts("requests", exchange.request, scenarios, CONNECTIONS[-1])
        for number in range(1, plan.rounds + 1):
            for scenario, connections in scenarios.items():
                for target in self._turns("requests", scenario, number, plan.rounds):
                    lua = scripts[target.name]
                    yield from self._load(
                        scenario, target, number, lua, connections, plan.request_s
                    )

    def images(self) -> Iterator[LoadRound]:
        """Measure requests with a picture of several megabytes, one after the other."""
        plan, connections = self._plan, _IMAGE_CONNECTIONS
        scripts = self._scripts("image", exchange.image_request, ["image"], connections)
        for number in range(1, plan.image_rounds + 1):
            for target in self._turns("image", "image", number, plan.image_rounds):
                lua = scripts[target.name]
                yield from self._load("image", target, number, lua, connections, plan.image_s)

    def streams(self) -> Iterator[StreamRound]:
        """Measure many streams at once, and very many."""
        plan, core = self._plan, self._wrk.core
        for number in range(1, plan.stream_rounds + 1):
            for count in STREAMS:
                scenario, sent = f"{count} streams", count * events_in(plan.stream_s)
                for target in self._turns("streams", scenario, number, plan.stream_rounds):
                    before_s = _cpu_s(target)
                    way = target.ways["streams"]
                    try:
                        streams = read_streams(way, count, plan.stream_s, core)
                    except StreamsFailed as failed:
                        self._fail(target, scenario, failed)
                        continue
                    used_s = _used_s(target, before_s)
                    yield StreamRound(number, target.name, count, sent, streams, used_s)

    def _scripts(
        self,
        kind: str,
        body: Callable[[str], bytes],
        scenarios: Iterable[str],
        connections: int,
    ) -> dict[str, Path]:
        """Write what wrk posts to each target, by its name, and run each for a moment."""
        found = {}
        for target in self._targets:
            way = target.ways.get(kind)
            if way is None:
                continue
            posted = body(way.model)
            found[target.name] = lua = self._folder / f"{target.name}-{kind}.lua"
            lua.write_text(script(posted.decode()), encoding="utf-8")
            try:
                ask_once(way, posted)
                self._wrk.run(way.url, lua, connections, 1)
            except LoadFailed as failed:
                for scenario in scenarios:
                    self._fail(target, scenario, failed)
        return found

    def _turns(self, kind: str, scenario: str, number: int, rounds: int) -> Iterator[Target]:
        for target in self._targets:
            if kind in target.ways and (target.name, scenario) not in self._failed:
                self._say(f"{scenario}, round {number} of {rounds}: {target.name}")
                yield target

    def _load(
        self,
        scenario: str,
        target: Target,
        number: int,
        lua: Path,
        connections: int,
        seconds: int,
    ) -> Iterator[LoadRound]:
        way = target.ways["image" if scenario == "image" else "requests"]
        before_s = _cpu_s(target)
        try:
            load = self._wrk.run(way.url, lua, connections, seconds)
        except LoadFailed as failed:
            self._fail(target, scenario, failed)
            return
        yield LoadRound(number, target.name, connections, load, _used_s(target, before_s))

    def _fail(self, target: Target, scenario: str, failed: Exception) -> None:
        self._say(f"{scenario}: {target.name} failed: {failed}")
        self._failed.add((target.name, scenario))
        self.failures.append(Failure(target.name, scenario, str(failed)))


def starts(plan: Plan, say: Progress) -> Iterator[Startup]:
    """Measure starts; one before them is not counted, for it may compile the modules."""
    start_once()
    for number in range(1, plan.starts + 1):
        say(f"start {number} of {plan.starts}")
        yield start_once()


def _cpu_s(target: Target) -> float | None:
    return target.proxy.cpu_s() if target.proxy else None


def _used_s(target: Target, before_s: float | None) -> float | None:
    if target.proxy is None or before_s is None:
        return None
    return target.proxy.cpu_s() - before_s
