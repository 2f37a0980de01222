"""A picture of what the MLX thread did: `python -m bench.mlx.timeline TRACE OUT.svg`.

TRACE is what `python -m backends.mlx_backend --trace FILE` wrote; Perfetto shows it too, step by
step. Here each generation has a line, so that one sees who waited for whom. `--from S` and `--to S`
cut a span out, in seconds after the first step.
"""

import argparse
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from backends.wire import Priority

_LINE, _BAR, _LEFT, _WIDTH, _TOP = 22, 14, 110, 980, 62
_COLOURS = {"Prefill": "#d9822b", "Decode": "#3b7dd8", "paused": "#c9ced6", "queued": "#8a93a0"}
_THIN = {"paused": (4, 5), "queued": (1, 7)}
_HIGH = "#c23030"
_US = 1_000_000


@dataclass(slots=True)
class Generation:
    """One line of the picture; spans are (kind, begin, end) in seconds."""

    ticket: int
    priority: str
    spans: list[tuple[str, float, float]] = field(default_factory=list)
    queued_at: float = 0.0
    paused_at: float | None = None


def read(path: Path) -> list[dict[str, Any]]:
    """Return a trace's events; its array need not be closed."""
    text = path.read_text(encoding="utf-8").rstrip().rstrip(",")
    events: list[dict[str, Any]] = json.loads(text if text.endswith("]") else text + "]")
    return events


def generations(events: Iterable[dict[str, Any]]) -> list[Generation]:
    """Return the generations of a trace in the order of their arrival."""
    found: dict[int, Generation] = {}
    first: float | None = None
    for event in events:
        begin, args = event["ts"] / _US, event["args"]
        first = begin if first is None else first
        begin -= first
        end = begin + event.get("dur", 0) / _US
        name, ticket = event["name"], args.get("ticket")
        if name == "Submit":
            found[ticket] = Generation(ticket, Priority(args["priority"]).name, queued_at=begin)
        elif name == "Admit" and ticket in found:
            found[ticket].spans.append(("queued", found[ticket].queued_at, begin))
        elif name == "Prefill" and ticket in found:
            found[ticket].spans.append((name, begin, end))
        elif name == "Decode":
            for each in args["tickets"]:
                if each in found:
                    found[each].spans.append((name, begin, end))
        elif name == "Pause" and ticket in found:
            found[ticket].paused_at = begin
        elif name == "Resume" and ticket in found:
            one = found[ticket]
            one.spans.append(("paused", begin if one.paused_at is None else one.paused_at, end))
    return list(found.values())


def draw(rows: list[Generation], since: float, until: float) -> str:
    """Return the picture as SVG."""
    shown = [row for row in rows if any(b < until and e > since for _, b, e in row.spans)]
    height = _TOP + _LINE * len(shown) + 34
    scale = _WIDTH / (until - since)
    size = f'width="{_LEFT + _WIDTH + 20}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        *_legend(),
    ]
    for index, row in enumerate(shown):
        y = _TOP + index * _LINE
        colour = _HIGH if row.priority == "HIGH" else "#333"
        label = escape(f"{row.priority} {row.ticket}")
        parts.append(f'<text x="10" y="{y + _BAR - 3}" fill="{colour}">{label}</text>')
        parts.extend(_bars(row, y, since, until, scale))
    parts.extend(_axis(since, until, scale, height))
    return "\n".join([*parts, "</svg>", ""])


def _bars(row: Generation, y: int, since: float, until: float, scale: float) -> Iterator[str]:
    for kind, begin, end in sorted(row.spans, key=lambda span: span[0] not in _THIN):
        left, right = max(begin, since), min(end, until)
        if right <= left:
            continue
        x, width = _LEFT + (left - since) * scale, max((right - left) * scale, 0.8)
        tall, down = _THIN.get(kind, (_BAR, 0))
        colour = _HIGH if row.priority == "HIGH" and kind == "Decode" else _COLOURS[kind]
        yield (
            f'<rect x="{x:.1f}" y="{y + down}" width="{width:.1f}" height="{tall}"'
            f' fill="{colour}"/>'
        )


def _legend() -> Iterator[str]:
    entries = (
        ("Prefill", "a chunk of its prompt"),
        ("Decode", "a token"),
        ("paused", "paused, its cache kept"),
        ("queued", "in the queue"),
    )
    yield '<text x="10" y="20" font-size="14">Steps of the MLX thread, a line a generation</text>'
    x = _LEFT
    for kind, text in entries:
        yield f'<rect x="{x}" y="32" width="14" height="12" fill="{_COLOURS[kind]}"/>'
        yield f'<text x="{x + 20}" y="43">{text}</text>'
        x += 40 + 7 * len(text)


def _axis(since: float, until: float, scale: float, height: int) -> Iterator[str]:
    step = next(
        (each for each in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10) if each * scale > 70), 30
    )
    for count in range(int((until - since) / step) + 1):
        x = _LEFT + count * step * scale
        yield f'<line x1="{x:.1f}" y1="{_TOP - 6}" x2="{x:.1f}" y2="{height - 24}" stroke="#ddd"/>'
        place = f'x="{x:.1f}" y="{height - 8}" fill="#666" text-anchor="middle"'
        yield f"<text {place}>{count * step * 1000:.0f} ms</text>"


def main() -> None:
    """Draw the picture that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m bench.mlx.timeline", description=__doc__)
    parser.add_argument("trace", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--from", dest="since", type=float, default=0.0)
    parser.add_argument("--to", dest="until", type=float)
    options = parser.parse_args()
    rows = generations(read(options.trace))
    ends = [end for row in rows for _, _, end in row.spans]
    if not ends:
        parser.error(f"{options.trace} holds no step of a generation")
    until = options.until if options.until is not None else max(ends)
    options.out.write_text(draw(rows, options.since, until), encoding="utf-8")


if __name__ == "__main__":
    main()
