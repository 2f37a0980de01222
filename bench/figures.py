"""From rounds to figures: each compared with nginx's in the same round, and with the bars."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeVar

from bench.decisions import QUESTIONS, SIZES, DecisionRound
from bench.peers import PEERS
from bench.rounds import CONNECTIONS, STREAMS, LoadRound, StreamRound
from bench.servers import Failure
from bench.spread import Spread
from bench.startup import Startup
from bench.target import reference_of

FEW, MANY = CONNECTIONS[0], CONNECTIONS[-1]


class Round(Protocol):
    """What was measured of one target in one round."""

    @property
    def round(self) -> int:
        """The round's number."""
        ...

    @property
    def target(self) -> str:
        """The target's name."""
        ...


_Round = TypeVar("_Round", bound=Round)
Figure = Callable[[_Round], float | None]


@dataclass(frozen=True, slots=True)
class Resources:
    """What a proxy took: seconds from exec to its first answer, and resident megabytes."""

    name: str
    ready_s: float | None
    idle_mb: float | None
    after_mb: float | None


@dataclass(frozen=True, slots=True)
class Measured:
    """Everything of one run: what was measured where, and what could not be and why."""

    facts: dict[str, str]
    scenarios: Sequence[str]
    requests: Sequence[LoadRound]
    streams: Sequence[StreamRound]
    images: Sequence[LoadRound]
    starts: Sequence[Startup]
    decisions: Sequence[DecisionRound]
    proxies: Sequence[Resources]
    absent: dict[str, str]
    failures: Sequence[Failure]


class Relation(StrEnum):
    """How a figure must stand to its bound."""

    LEAST = "≥"
    MOST = "≤"
    MORE = ">"

    def holds(self, figure: float, bound: float) -> bool:
        """Tell whether it does."""
        if self is Relation.LEAST:
            return figure >= bound
        return figure <= bound if self is Relation.MOST else figure > bound


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure that the project holds itself to, what it aims at, and what was measured, if it was.

    `scenario` is the one whose rounds tell it.
    """

    scenario: str
    name: str
    relation: Relation
    bound: float
    aim: float | None
    measured: Spread | None

    @property
    def is_met(self) -> bool | None:
        """Tell whether the median meets the bar; None when nothing was measured."""
        return self._holds(self.bound)

    @property
    def is_aim_met(self) -> bool | None:
        """Tell whether the median reaches the aim; None without one."""
        return self._holds(self.aim)

    def _holds(self, bound: float | None) -> bool | None:
        if self.measured is None or bound is None:
            return None
        return self.relation.holds(self.measured.median, bound)


def requests_at(run: Measured, connections: int) -> list[LoadRound]:
    """Return the rounds of requests over so many connections."""
    return [one for one in run.requests if one.connections == connections]


def streams_of(run: Measured, count: int) -> list[StreamRound]:
    """Return the rounds of so many streams."""
    return [one for one in run.streams if one.count == count]


def of_target(rounds: Sequence[_Round], target: str, figure: Figure[_Round]) -> dict[int, float]:
    """Return a figure of each of a target's rounds by the round's number, where there is one."""
    found = {one.round: figure(one) for one in rounds if one.target == target}
    return {number: value for number, value in found.items() if value is not None}


def ratio(
    rounds: Sequence[_Round], target: str, other: str, figure: Figure[_Round]
) -> Spread | None:
    """Return a target's figure as a part of another's, each by the same round's; None without."""
    own, others = of_target(rounds, target, figure), of_target(rounds, other, figure)
    both = [own[number] / others[number] for number in own if others.get(number)]
    return Spread.of(both) if both else None


def ratio_to_nginx(rounds: Sequence[_Round], target: str, figure: Figure[_Round]) -> Spread | None:
    """Return a target's figure as a part of what nginx has over the same wire."""
    return ratio(rounds, target, reference_of(target), figure)


def added_p50_ratio(rounds: Sequence[LoadRound]) -> Spread | None:
    """Return what the router adds to the direct median latency, by what nginx adds.

    None when nginx added nothing that the clock can show in any round.
    """
    direct, nginx, router = (of_target(rounds, name, p50_ms) for name in _TRIO)
    added = [
        (router[number] - base) / (nginx[number] - base)
        for number, base in direct.items()
        if number in router and nginx.get(number, 0) > base
    ]
    return Spread.of(added) if added else None


_TRIO = ("direct", "nginx", "router")


def per_second(one: LoadRound) -> float:
    """Return requests per second."""
    return one.load.per_second


def p50_ms(one: LoadRound) -> float:
    """Return the median latency."""
    return one.load.p50_ms


def cpu_us(one: LoadRound) -> float | None:
    """Return the CPU microseconds of the proxy per request."""
    return one.cpu_us


def events_per_cpu_s(one: StreamRound) -> float | None:
    """Return the events that the proxy passed on per CPU second."""
    return one.per_cpu_s


def lag_p99_ms(one: StreamRound) -> float:
    """Return how late the events came that came late."""
    return one.streams.p99_ms


def bars(run: Measured) -> list[Bar]:
    """Return the project's bars for the scenarios of this run."""
    every = [
        *_request_bars(run),
        *_stream_bars(run),
        *_start_bars(run),
        *_decision_bars(run),
    ]
    return [bar for bar in every if bar.scenario in run.scenarios]


def _request_bars(run: Measured) -> list[Bar]:
    many, few = requests_at(run, MANY), requests_at(run, FEW)
    of_nginx = ratio_to_nginx(many, "router", per_second)
    added = added_p50_ratio(few)
    return [
        Bar("requests", f"requests/s, of nginx's, c={MANY}", Relation.LEAST, 0.25, 0.35, of_nginx),
        Bar("requests", f"added p50, × nginx's, c={FEW}", Relation.MOST, 5, 3, added),
        *(
            Bar(
                "requests",
                f"requests/s, × {peer}'s, c={MANY}",
                Relation.MORE,
                1,
                None,
                ratio(many, "router", peer, per_second),
            )
            for peer in PEERS
        ),
    ]


def _stream_bars(run: Measured) -> list[Bar]:
    found = []
    for count in STREAMS:
        rounds = streams_of(run, count)
        of_nginx = ratio_to_nginx(rounds, "router", events_per_cpu_s)
        of_peer = ratio(rounds, "router", "llama-swap", events_per_cpu_s)
        name = f"events/CPU-s, of nginx's, {count} streams"
        found.append(Bar("streams", name, Relation.LEAST, 0.5, 0.65, of_nginx))
        name = f"events/CPU-s, × llama-swap's, {count} streams"
        found.append(Bar("streams", name, Relation.MORE, 1, None, of_peer))
    very_many = STREAMS[-1]
    lag = ratio_to_nginx(streams_of(run, very_many), "router", lag_p99_ms)
    name = f"lag p99, × nginx's, {very_many} streams"
    return [*found, Bar("streams", name, Relation.MOST, 3, None, lag)]


def _start_bars(run: Measured) -> list[Bar]:
    figures: list[tuple[str, float, Callable[[Startup], float]]] = [
        ("start to the first answer, s", 0.5, lambda one: one.first_answer_s),
        ("resident when idle, MB", 60, lambda one: one.idle_mb),
        ("resident with the admin API, MB", 110, lambda one: one.with_admin_mb),
    ]
    return [
        Bar("start", name, Relation.MOST, bound, None, spread_of(map(figure, run.starts)))
        for name, bound, figure in figures
    ]


def decision_us(one: DecisionRound) -> float:
    """Return the CPU microseconds of a decision."""
    return one.us


def of_question(run: Measured, question: str) -> list[DecisionRound]:
    """Return the rounds of one question."""
    return [one for one in run.decisions if one.question == question]


def grown(rounds: Sequence[DecisionRound], size: int) -> Spread | None:
    """Return how long a decision takes with so many models, by what it takes with the fewest."""
    return ratio(rounds, str(size), str(SIZES[0]), decision_us)


def _decision_bars(run: Measured) -> list[Bar]:
    most = SIZES[-1]
    return [
        Bar(
            "decisions",
            f"{question}: {most:,} models, × {SIZES[0]}",
            Relation.MOST,
            1.5,
            None,
            grown(of_question(run, question), most),
        )
        for question in QUESTIONS
    ]


def spread_of(figures: Iterable[float]) -> Spread | None:
    """Return the spread of figures, None of none."""
    every = list(figures)
    return Spread.of(every) if every else None
