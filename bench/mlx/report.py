"""What was measured of one model, for people as plain tables and for programs as JSON."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from bench.figures import of_target, ratio, spread_of
from bench.mlx.figures import (
    Measured,
    among,
    bars,
    first_ms,
    low_counts,
    of_idle,
    per_second,
    spread,
    stream_counts,
    streams_of,
)
from bench.mlx.records import TokenRound
from bench.mlx.rounds import KINDS
from bench.mlx.targets import BACKEND, DIRECT, NAMES, SERVER, TRACED
from bench.report import Row, bars_table, failed, shown, table
from bench.spread import percentile


def text(run: Measured) -> str:
    """Return the whole report: medians over the rounds, with the lowest and highest of them."""
    sections = ["\n".join(f"{name}: {fact}" for name, fact in run.facts.items())]
    for scenario in run.scenarios:
        sections += _SECTIONS[scenario](run)
        own = [bar for bar in bars(run) if bar.scenario == scenario]
        if own:
            sections.append(bars_table(own))
    return "\n\n".join([*sections, *failed(run.failures)])


def as_json(run: Measured) -> dict[str, Any]:
    """Return the whole run for programs: every round, and the bars."""
    return {**asdict(run), "bars": [{**asdict(bar), "is_met": bar.is_met} for bar in bars(run)]}


def _tokens(run: Measured) -> list[str]:
    return [_streams(streams, streams_of(run, streams)) for streams in stream_counts(run)]


def _streams(streams: int, rounds: Sequence[TokenRound]) -> str:
    rows: list[Row] = [
        (f"{streams} streams", "tokens each", "tokens/s", "of direct's", "ms a step")
    ]
    for target in (name for name in NAMES if of_target(rounds, name, per_second)):
        each = of_target(rounds, target, lambda one: one.tokens / streams)
        step_ms = of_target(rounds, target, lambda one: one.step_ms)
        rows.append(
            (
                target,
                f"{min(each.values()):g}",
                shown(spread_of(of_target(rounds, target, per_second).values()), ",.1f"),
                "" if target == DIRECT else shown(ratio(rounds, target, DIRECT, per_second), ".3f"),
                shown(spread_of(step_ms.values()), ",.2f"),
            )
        )
    return table(rows)


def _priority(run: Measured) -> list[str]:
    rows: list[Row] = [("HIGH's first token", "LOW streams", "ms", "× idle", "queue ms", "steps")]
    for target in (TRACED, SERVER):
        for lows in low_counts(run):
            rounds = among(run, lows)
            found = of_target(rounds, target, first_ms)
            if not found:
                continue
            idle = of_idle(run, target, lows) if lows else None
            row = [target, str(lows), shown(spread_of(found.values()), ",.1f"), shown(idle, ".2f")]
            if target == TRACED:
                row += [
                    shown(spread(rounds, lambda one: one.queue_ms), ",.1f"),
                    shown(spread(rounds, lambda one: one.worst_steps), ".0f"),
                ]
            rows.append([*row, "", ""][:6])
    return [table(rows)]


def _cancel(run: Measured) -> list[str]:
    rows: list[Row] = [
        ("close to gone", "of", "p50 ms", "p99 ms", "longest step ms", "one look ms"),
    ]
    rows += [
        (
            one.phase,
            str(len(one.gone_ms)),
            f"{percentile(one.gone_ms, 0.5):.1f}",
            f"{percentile(one.gone_ms, 0.99):.1f}",
            f"{one.step_ms:.1f}",
            f"{one.poll_ms:.1f}",
        )
        for one in run.cancels
    ]
    return [table(rows)]


def _reuse(run: Measured) -> list[str]:
    rows: list[Row] = [("first token, ms", "", "new", "again", "again, of new")]
    for kind in KINDS:
        for target in (BACKEND, SERVER):
            rounds = [one for one in run.reuses if (one.kind, one.target) == (kind, target)]
            if rounds:
                rows.append(
                    (
                        kind,
                        target,
                        shown(spread_of(one.first_ms for one in rounds), ",.1f"),
                        shown(spread_of(one.again_ms for one in rounds), ",.1f"),
                        shown(spread_of(one.again_ms / one.first_ms for one in rounds), ".3f"),
                    )
                )
    return [table(rows)]


_SECTIONS: dict[str, Callable[[Measured], list[str]]] = {
    "tokens": _tokens,
    "priority": _priority,
    "cancel": _cancel,
    "reuse": _reuse,
}
