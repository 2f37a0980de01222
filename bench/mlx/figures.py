"""From rounds to figures, and the bars that the project sets for its MLX backend."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.figures import Bar, Figure, Relation, of_target, ratio, spread_of
from bench.mlx.records import CancelPhase, PriorityRound, ReuseRound, TokenRound
from bench.mlx.targets import BACKEND, DIRECT, OPEN, TRACED
from bench.servers import Failure
from bench.spread import Spread


@dataclass(frozen=True, slots=True)
class Measured:
    """Everything of one model: `load_s` is what loading it took, `memory_mb` what it took then."""

    facts: dict[str, str]
    scenarios: Sequence[str]
    tokens: Sequence[TokenRound]
    priority: Sequence[PriorityRound]
    cancels: Sequence[CancelPhase]
    reuses: Sequence[ReuseRound]
    load_s: float | None
    memory_mb: float | None
    failures: Sequence[Failure]


def streams_of(run: Measured, streams: int) -> list[TokenRound]:
    """Return the rounds of so many streams."""
    return [one for one in run.tokens if one.streams == streams]


def among(run: Measured, lows: int) -> list[PriorityRound]:
    """Return the rounds with so many LOW streams in flight."""
    return [one for one in run.priority if one.lows == lows]


def stream_counts(run: Measured) -> list[int]:
    """Return how many streams there were at once, the fewest first."""
    return sorted({one.streams for one in run.tokens})


def low_counts(run: Measured) -> list[int]:
    """Return how many LOW streams there were, none among them, the fewest first."""
    return sorted({one.lows for one in run.priority})


def per_second(one: TokenRound) -> float:
    """Return the tokens per second of all streams together."""
    return one.per_second


def first_ms(one: PriorityRound) -> float:
    """Return the median time to the first token."""
    return one.median_ms


def of_idle(run: Measured, target: str, lows: int) -> Spread | None:
    """Return the time to the first token by what it is on the idle target, each in its round."""
    idle = of_target(among(run, 0), target, first_ms)
    loaded = of_target(among(run, lows), target, first_ms)
    both = [loaded[number] / idle[number] for number in loaded if number in idle]
    return spread_of(both)


def spread(rounds: Sequence[PriorityRound], figure: Figure[PriorityRound]) -> Spread | None:
    """Return the spread of a figure of the backend's rounds."""
    return spread_of(of_target(rounds, TRACED, figure).values())


def bars(run: Measured) -> list[Bar]:
    """Return the project's bars for the scenarios of this run."""
    every = [*_token_bars(run), *_priority_bars(run), *_size_bars(run)]
    return [bar for bar in every if bar.scenario in run.scenarios]


def _token_bars(run: Measured) -> Iterator[Bar]:
    for streams in stream_counts(run):
        of_direct = ratio(streams_of(run, streams), OPEN, DIRECT, per_second)
        name = f"tokens/s, of mlx-vlm's own batch, {streams} streams"
        yield Bar("tokens", name, Relation.LEAST, 0.97, None, of_direct)
    alone = of_target(streams_of(run, 1), BACKEND, lambda one: one.seconds)
    yield Bar("tokens", "one text answer, s", Relation.MOST, 3, None, spread_of(alone.values()))


def _priority_bars(run: Measured) -> Iterator[Bar]:
    counts = [lows for lows in low_counts(run) if lows]
    for lows in counts:
        waited = spread(among(run, lows), lambda one: one.worst_steps)
        # The worst of all rounds, not their median: the promise is made to every request.
        worst = None if waited is None else Spread.of([waited.high])
        name = f"steps that HIGH waits at most, {lows} LOW"
        yield Bar("priority", name, Relation.MOST, 1, None, worst)
    for lows in counts[-1:]:
        queued = spread(among(run, lows), lambda one: one.queue_ms)
        name = f"HIGH's time in the queue, ms, {lows} LOW"
        yield Bar("priority", name, Relation.MOST, 100, None, queued)


def _size_bars(run: Measured) -> Iterator[Bar]:
    def alone(figure: float | None) -> Spread | None:
        return None if figure is None else Spread.of([figure])

    pictures = [one.whole_ms / 1e3 for one in run.reuses if _is_own_picture(one)]
    yield Bar("reuse", "one answer about a picture, s", Relation.MOST, 5, None, spread_of(pictures))
    yield Bar("tokens", "loading the model, s", Relation.MOST, 10, None, alone(run.load_s))
    yield Bar("tokens", "memory, MB", Relation.MOST, 3000, None, alone(run.memory_mb))


def _is_own_picture(one: ReuseRound) -> bool:
    return one.target == BACKEND and one.kind == "picture"
