"""From rounds to figures: each compared with nginx's in the same round, and with the bars."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from bench.rounds import CONNECTIONS, RequestRound, StreamRound
from bench.spread import Spread
from bench.startup import Startup

FEW, MANY = CONNECTIONS[0], CONNECTIONS[-1]
_Round = TypeVar("_Round", RequestRound, StreamRound)
Figure = Callable[[_Round], float | None]


@dataclass(frozen=True, slots=True)
class Measured:
    """Everything of one run: what was measured where, and the proxies' memory in megabytes."""

    facts: dict[str, str]
    requests: Sequence[RequestRound]
    streams: Sequence[StreamRound]
    starts: Sequence[Startup]
    resident_mb: dict[str, float]


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure that the project holds itself to, and what was measured of it."""

    name: str
    bound: float
    is_least: bool
    measured: Spread

    @property
    def is_met(self) -> bool:
        """Tell whether the median meets it."""
        if self.is_least:
            return self.measured.median >= self.bound
        return self.measured.median <= self.bound


def requests_at(run: Measured, connections: int) -> list[RequestRound]:
    """Return the rounds of requests over so many connections."""
    return [one for one in run.requests if one.connections == connections]


def of_target(rounds: Sequence[_Round], target: str, figure: Figure[_Round]) -> list[float]:
    """Return a figure of each of a target's rounds, in their order, where there is one."""
    found = (figure(one) for one in sorted(rounds, key=_number) if one.target == target)
    return [value for value in found if value is not None]


def _number(one: RequestRound | StreamRound) -> int:
    return one.round


def ratio_to_nginx(rounds: Sequence[_Round], target: str, figure: Figure[_Round]) -> Spread:
    """Return a target's figure as a part of nginx's, each by the same round's."""
    own, nginx = of_target(rounds, target, figure), of_target(rounds, "nginx", figure)
    return Spread.of([one / other for one, other in zip(own, nginx, strict=True)])


def added_p50_ratio(rounds: Sequence[RequestRound]) -> Spread:
    """Return what the router adds to the direct median latency, by what nginx adds.

    ValueError when nginx added nothing that the clock can show in any round.
    """
    direct, nginx, router = (
        of_target(rounds, target, lambda one: one.load.p50_ms)
        for target in ("direct", "nginx", "router")
    )
    trios = zip(direct, nginx, router, strict=True)
    return Spread.of([(ours - base) / (its - base) for base, its, ours in trios if its > base])


def bars(run: Measured) -> list[Bar]:
    """Return the project's bars for what this run measured."""
    many, few = requests_at(run, MANY), requests_at(run, FEW)
    rate = ratio_to_nginx(many, "router", lambda one: one.load.per_second)
    events = ratio_to_nginx(run.streams, "router", lambda one: one.per_cpu_s)
    first = Spread.of([start.first_answer_s for start in run.starts])
    idle = Spread.of([start.idle_mb for start in run.starts])
    with_admin = Spread.of([start.with_admin_mb for start in run.starts])
    return [
        Bar(f"requests/s over nginx's, c={MANY}", 0.25, is_least=True, measured=rate),
        Bar(
            f"added p50 over nginx's, c={FEW}",
            5,
            is_least=False,
            measured=added_p50_ratio(few),
        ),
        Bar("stream events/CPU-s over nginx's", 0.5, is_least=True, measured=events),
        Bar("start to the first answer, s", 0.5, is_least=False, measured=first),
        Bar("resident when idle, MB", 60, is_least=False, measured=idle),
        Bar("resident with the admin API, MB", 110, is_least=False, measured=with_admin),
    ]
