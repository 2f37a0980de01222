"""What is measured in which order: every target in turn, so that all of them share the weather."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from bench.load import Load, Wrk
from bench.proxies import Target
from bench.startup import Startup, start_once
from bench.streams import Streams, read_streams

CONNECTIONS: Final = (1, 32)
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured: rounds of requests, of streams, and starts; seconds of each round."""

    rounds: int
    request_s: int
    stream_rounds: int
    stream_s: int
    streams: int
    starts: int


FULL: Final = Plan(rounds=5, request_s=3, stream_rounds=3, stream_s=3, streams=100, starts=5)
QUICK: Final = Plan(rounds=1, request_s=1, stream_rounds=1, stream_s=1, streams=100, starts=1)


@dataclass(frozen=True, slots=True)
class RequestRound:
    """One round of requests through one target; the CPU seconds are its proxy's, if it has one."""

    round: int
    target: str
    connections: int
    load: Load
    cpu_s: float | None

    @property
    def per_cpu_s(self) -> float | None:
        """Requests per CPU second of the proxy."""
        return self.load.requests / self.cpu_s if self.cpu_s else None

    @property
    def core_share(self) -> float | None:
        """The part of one core that the proxy used."""
        return self.cpu_s / self.load.seconds if self.cpu_s else None


@dataclass(frozen=True, slots=True)
class StreamRound:
    """One round of streams through one target; `sent` counts the events that were to arrive."""

    round: int
    target: str
    sent: int
    streams: Streams
    cpu_s: float | None

    @property
    def per_cpu_s(self) -> float | None:
        """Events per CPU second of the proxy."""
        return self.streams.events / self.cpu_s if self.cpu_s else None


def request_rounds(
    targets: tuple[Target, ...], wrk: Wrk, plan: Plan, say: Progress
) -> Iterator[RequestRound]:
    """Measure requests, one connection and many, through every target in turn."""
    for target in targets:
        # Connections, caches and memory are as they stay.
        wrk.run(target.requests_port, CONNECTIONS[-1], 1)
    for number in range(1, plan.rounds + 1):
        for connections in CONNECTIONS:
            for target in targets:
                say(f"requests, round {number} of {plan.rounds}: {target.name}, c={connections}")
                before_s = _cpu_s(target)
                load = wrk.run(target.requests_port, connections, plan.request_s)
                yield RequestRound(
                    number, target.name, connections, load, _used_s(target, before_s)
                )


def stream_rounds(
    targets: tuple[Target, ...], plan: Plan, events: int, core: int | None, say: Progress
) -> Iterator[StreamRound]:
    """Measure many streams at once, of `events` events each, through every target in turn."""
    for number in range(1, plan.stream_rounds + 1):
        for target in targets:
            say(f"streams, round {number} of {plan.stream_rounds}: {target.name}")
            before_s = _cpu_s(target)
            streams = read_streams(target.streams_port, plan.streams, plan.stream_s, core)
            cpu_s = _used_s(target, before_s)
            yield StreamRound(number, target.name, plan.streams * events, streams, cpu_s)


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
