"""What was measured, for people as plain tables and for programs as JSON."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

from bench.decisions import QUESTIONS, SIZES
from bench.figures import (
    Bar,
    Figure,
    Measured,
    bars,
    cpu_us,
    decision_us,
    events_per_cpu_s,
    grown,
    lag_p99_ms,
    of_question,
    of_target,
    p50_ms,
    per_second,
    ratio_to_nginx,
    requests_at,
    spread_of,
    streams_of,
)
from bench.rounds import CONNECTIONS, STREAMS, LoadRound, StreamRound
from bench.servers import NAMES, Failure
from bench.spread import Spread
from bench.startup import Startup
from bench.target import reference_of

_Round = TypeVar("_Round", LoadRound, StreamRound)
Row = Sequence[str]
_REASON = 400


@dataclass(frozen=True, slots=True)
class Column(Generic[_Round]):
    """A figure of every target: its median or, for a ratio, how it stands to nginx's."""

    head: str
    figure: Figure[_Round]
    form: str = ",.0f"
    is_ratio: bool = False

    def cell(self, rounds: Sequence[_Round], target: str) -> str:
        """Return what a table shows of one target."""
        if self.is_ratio:
            # nginx's own is 1 by definition, and without a proxy nothing is compared.
            if target in {reference_of(target), "direct"}:
                return ""
            return shown(ratio_to_nginx(rounds, target, self.figure), self.form)
        spread = spread_of(of_target(rounds, target, self.figure).values())
        return "" if spread is None else format(spread.median, self.form)


_REQUESTS: Sequence[Column[LoadRound]] = (
    Column("per s", per_second),
    Column("of nginx's", per_second, ".3f", is_ratio=True),
    Column("p50 ms", p50_ms, ".3f"),
    Column("p99 ms", lambda one: one.load.p99_ms, ".3f"),
    Column("core", lambda one: one.core_share, ".2f"),
    Column("CPU µs each", cpu_us, ",.1f"),
    Column("× nginx's", cpu_us, ".2f", is_ratio=True),
)
_IMAGES: Sequence[Column[LoadRound]] = (
    Column("per s", per_second, ",.1f"),
    Column("p50 ms", p50_ms, ".2f"),
    Column("× nginx's", p50_ms, ".2f", is_ratio=True),
    Column("p99 ms", lambda one: one.load.p99_ms, ".2f"),
    Column("core", lambda one: one.core_share, ".2f"),
    Column("CPU µs each", cpu_us),
    Column("× nginx's", cpu_us, ".2f", is_ratio=True),
)
_STREAMS: Sequence[Column[StreamRound]] = (
    Column("events", lambda one: one.streams.events),
    Column("of", lambda one: one.sent),
    Column("lag p50 ms", lambda one: one.streams.p50_ms, ".3f"),
    Column("lag p99 ms", lag_p99_ms, ".3f"),
    Column("× nginx's", lag_p99_ms, ".2f", is_ratio=True),
    Column("core", lambda one: one.core_share, ".2f"),
    Column("per CPU-s", events_per_cpu_s),
    Column("of nginx's", events_per_cpu_s, ".3f", is_ratio=True),
)


_STARTS: Sequence[tuple[str, Callable[[Startup], float]]] = (
    ("exec to the first answered /v1/models, s", lambda one: one.first_answer_s),
    ("resident then, MB", lambda one: one.idle_mb),
    ("then to the first answered /admin/capabilities, s", lambda one: one.admin_s),
    ("resident then, MB", lambda one: one.with_admin_mb),
)


def text(run: Measured) -> str:
    """Return the whole report for people: medians, and ratios with the lowest and highest round.

    `core` is the part of a core that the proxy got: well below 1 with many connections, something
    else ran there, and only what is per CPU second says much.
    """
    sections = ["\n".join(f"{name}: {fact}" for name, fact in run.facts.items())]
    for scenario in run.scenarios:
        sections += _SECTIONS[scenario](run)
        own = [bar for bar in bars(run) if bar.scenario == scenario]
        if own:
            sections.append(bars_table(own))
    if run.proxies:
        sections.append(_proxies(run))
    sections += _left_out(run)
    return "\n\n".join(sections)


def as_json(run: Measured) -> dict[str, Any]:
    """Return the whole run for programs: every round, and the bars."""
    return {
        **asdict(run),
        "bars": [
            {**asdict(bar), "is_met": bar.is_met, "is_aim_met": bar.is_aim_met} for bar in bars(run)
        ],
    }


def _requests(run: Measured) -> list[str]:
    return [
        _targets(f"requests, c={connections}", requests_at(run, connections), _REQUESTS)
        for connections in CONNECTIONS
    ]


def _streams(run: Measured) -> list[str]:
    return [_targets(f"{count} streams", streams_of(run, count), _STREAMS) for count in STREAMS]


def _images(run: Measured) -> list[str]:
    return [_targets("a picture of 5 MB, c=1", run.images, _IMAGES)]


def _starts(run: Measured) -> list[str]:
    rows = [(name, shown(spread_of(map(figure, run.starts)), ".3f")) for name, figure in _STARTS]
    return [table([("start of the router", ""), *rows])]


def _decisions(run: Measured) -> list[str]:
    few, *others = SIZES
    head = ["a decision, CPU µs", *(f"{size:,} models" for size in SIZES)]
    head += [f"{size:,} by {few}" for size in others]
    rows = []
    for question in QUESTIONS:
        rounds = of_question(run, question)
        took = (spread_of(of_target(rounds, str(size), decision_us).values()) for size in SIZES)
        times = (grown(rounds, size) for size in others)
        rows.append(
            [
                question,
                *(shown(spread, ".1f") for spread in took),
                *(shown(spread, ".2f") for spread in times),
            ]
        )
    return [table([head, *rows])]


_SECTIONS: dict[str, Callable[[Measured], list[str]]] = {
    "requests": _requests,
    "streams": _streams,
    "image": _images,
    "start": _starts,
    "decisions": _decisions,
}


def _targets(name: str, rounds: Sequence[_Round], columns: Sequence[Column[_Round]]) -> str:
    measured = {one.target for one in rounds}
    shown: list[str] = [target for target in NAMES if target in measured]
    head = [name, *(column.head for column in columns)]
    return table([head, *(_row(target, rounds, columns) for target in shown)])


def _row(target: str, rounds: Sequence[_Round], columns: Sequence[Column[_Round]]) -> Row:
    return [target, *(column.cell(rounds, target) for column in columns)]


def bars_table(own: Sequence[Bar]) -> str:
    """Return the bars with what was measured and whether it meets them."""
    rows = [("the project's bars", "measured", "bar", "", "aim", "")]
    rows += [
        (
            bar.name,
            shown(bar.measured, ".3f") or "not measured",
            f"{bar.relation} {bar.bound:g}",
            _verdict(bar.is_met),
            "" if bar.aim is None else f"{bar.relation} {bar.aim:g}",
            _verdict(bar.is_aim_met),
        )
        for bar in own
    ]
    return table(rows)


def _proxies(run: Measured) -> str:
    def told(figure: float | None, form: str) -> str:
        return "" if figure is None else format(figure, form)

    rows = [("proxies of this run", "first answer s", "resident then MB", "after all rounds MB")]
    rows += [
        (one.name, told(one.ready_s, ".2f"), told(one.idle_mb, ".1f"), told(one.after_mb, ".1f"))
        for one in run.proxies
    ]
    return table(rows)


def _left_out(run: Measured) -> Iterator[str]:
    if run.absent:
        yield "\n".join(
            ["not measured", *(f"  {name}: {reason}" for name, reason in run.absent.items())]
        )
    yield from failed(run.failures)


def failed(failures: Sequence[Failure]) -> Iterator[str]:
    """Return the section that names what failed, none where nothing did."""
    if failures:
        lines = (f"  {one.target}, {one.scenario}: {_short(one.reason)}" for one in failures)
        yield "\n".join(["FAILED", *lines])


def _short(reason: str) -> str:
    """Return the beginning on one line: a server's last words can be long."""
    return " ".join(reason.split())[:_REASON]


def shown(spread: Spread | None, form: str) -> str:
    """Return a spread for people, nothing of none."""
    return "" if spread is None else spread.show(form)


def _verdict(is_met: bool | None) -> str:  # noqa: FBT001 the only argument
    return "" if is_met is None else "met" if is_met else "MISSED"


def table(rows: Sequence[Row]) -> str:
    """Return rows of cells as aligned columns: the first one to the left, all others to the right.

    The first row is the heading.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = list(_lines(rows, widths))
    rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([lines[0], rule, *lines[1:]])


def _lines(rows: Sequence[Row], widths: Sequence[int]) -> Iterator[str]:
    for row in rows:
        first, *others = zip(row, widths, strict=True)
        cells = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        yield "  ".join(cells).rstrip()
