"""What was measured, for people as plain tables and for programs as JSON."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from bench.figures import FEW, MANY, Figure, Measured, bars, of_target, ratio_to_nginx, requests_at
from bench.rounds import RequestRound, StreamRound
from bench.spread import Spread

_TARGETS = ("direct", "nginx", "router")
Row = Sequence[str]


def text(run: Measured) -> str:
    """Return the whole report for people: medians, some with the lowest and highest round.

    `core` is the part of a core that the proxy got: well below 1 with many connections, something
    else ran there, and only what is per CPU second says much.
    """
    sections = [
        "\n".join(f"{name}: {fact}" for name, fact in run.facts.items()),
        *(_requests(run, connections) for connections in (FEW, MANY)),
        _streams(run),
        _starts(run),
        _bars(run),
    ]
    return "\n\n".join(sections)


def as_json(run: Measured) -> dict[str, Any]:
    """Return the whole run for programs: every round, and the bars."""
    return {
        **asdict(run),
        "bars": [{**asdict(bar), "is_met": bar.is_met} for bar in bars(run)],
    }


def _requests(run: Measured, connections: int) -> str:
    rounds = requests_at(run, connections)

    def row(target: str) -> Row:
        def median(figure: Figure[RequestRound], form: str = ",.0f") -> str:
            return _median(of_target(rounds, target, figure), form)

        def part(figure: Figure[RequestRound]) -> str:
            return "" if target == "direct" else ratio_to_nginx(rounds, target, figure).show(".3f")

        return (
            target,
            median(lambda one: one.load.per_second),
            part(lambda one: one.load.per_second),
            median(lambda one: one.load.p50_ms, ".3f"),
            median(lambda one: one.load.p99_ms, ".3f"),
            median(lambda one: one.core_share, ".2f"),
            median(lambda one: one.per_cpu_s),
            part(lambda one: one.per_cpu_s),
        )

    head = (f"requests, c={connections}", "per s", "of nginx's", "p50 ms", "p99 ms")
    return table([(*head, "core", "per CPU-s", "of nginx's"), *map(row, _TARGETS)])


def _streams(run: Measured) -> str:
    def row(target: str) -> Row:
        def median(figure: Figure[StreamRound], form: str = ",.0f") -> str:
            return _median(of_target(run.streams, target, figure), form)

        def part(figure: Figure[StreamRound]) -> str:
            if target == "direct":
                return ""
            return ratio_to_nginx(run.streams, target, figure).show(".3f")

        return (
            target,
            median(lambda one: one.streams.events),
            median(lambda one: one.sent),
            median(lambda one: one.streams.p50_ms, ".3f"),
            median(lambda one: one.streams.p99_ms, ".3f"),
            median(lambda one: one.cpu_s, ".3f"),
            median(lambda one: one.per_cpu_s),
            part(lambda one: one.per_cpu_s),
        )

    head = ("streams", "events", "of", "lag p50 ms", "lag p99 ms", "CPU-s", "per CPU-s")
    return table([(*head, "of nginx's"), *map(row, _TARGETS)])


def _starts(run: Measured) -> str:
    first = Spread.of([start.first_answer_s for start in run.starts])
    idle = Spread.of([start.idle_mb for start in run.starts])
    admin = Spread.of([start.admin_s for start in run.starts])
    with_admin = Spread.of([start.with_admin_mb for start in run.starts])
    loaded = (f"{name} {resident:.0f} MB" for name, resident in run.resident_mb.items())
    rows = [
        ("start-up of the router", ""),
        ("exec to the first answered /v1/models", f"{first.show('.3f')} s"),
        ("resident then", f"{idle.show('.1f')} MB"),
        ("first answered /admin/capabilities", f"{admin.show('.3f')} s"),
        ("resident then", f"{with_admin.show('.1f')} MB"),
        ("resident after all rounds", ", ".join(loaded)),
    ]
    return table(rows)


def _bars(run: Measured) -> str:
    rows = [("the project's bars", "measured", "bar", "")]
    rows += [
        (
            bar.name,
            bar.measured.show(".3f"),
            f"{'≥' if bar.is_least else '≤'} {bar.bound:g}",
            "met" if bar.is_met else "MISSED",
        )
        for bar in bars(run)
    ]
    return table(rows)


def _median(figures: Sequence[float], form: str) -> str:
    return format(Spread.of(figures).median, form) if figures else ""


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
