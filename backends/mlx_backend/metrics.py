"""What the backend counts, as Prometheus reads it.

The text format, version 0.0.4: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from backends.mlx_backend.generation import EngineStatus

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PREFIX = "signalbox_mlx_"


class _Family(NamedTuple):
    # `values` by their labels, spelled; names and labels are fixed, so nothing is to be escaped.
    name: str
    help: str
    values: Mapping[str, float]


def exposition(now: EngineStatus) -> str:
    """Return all metrics as text."""
    lines = [line for family in _gauges(now) for line in _spell(family, "gauge")]
    lines += [line for family in _counters(now) for line in _spell(family, "counter")]
    return "".join(lines)


def _spell(family: _Family, kind: str) -> Iterator[str]:
    name = _PREFIX + family.name
    yield f"# HELP {name} {family.help}\n"
    yield f"# TYPE {name} {kind}\n"
    for labels, value in family.values.items():
        yield f"{name}{labels} {value}\n"


def _gauges(now: EngineStatus) -> tuple[_Family, ...]:
    waiting = {f'{{priority="{each.name.lower()}"}}': count for each, count in now.queued.items()}
    rows = {"prefilling": now.prefilling, "decoding": now.decoding, "paused": now.paused}
    states = {f'{{state="{state}"}}': count for state, count in rows.items()}
    batched = "1 where rows share a batch, 0 where the self-test forbids it."
    return (
        _Family("batched", batched, {"": int(not now.why)}),
        _Family("queued", "Requests that wait, by priority.", waiting),
        _Family("rows", "Generations that have left the queue, by state.", states),
        _Family(
            "memory_bytes",
            "What MLX holds, weights and caches together.",
            {"": now.memory_mb * 1024 * 1024},
        ),
        _Family("models_loaded", "Models in memory.", {"": len(now.models)}),
        _Family(
            "image_encode_worst_seconds",
            "The longest that one image took.",
            {"": now.totals.worst_image_s},
        ),
    )


def _counters(now: EngineStatus) -> tuple[_Family, ...]:
    totals = now.totals
    events = {f'{{event="{name}"}}': count for name, count in now.events.items()}
    images = "Images encoded; those known from before are not."
    return (
        _Family("model_loads_total", "Models loaded since the start.", {"": now.loads}),
        _Family("steps_total", "Decode steps, whatever the number of rows.", {"": totals.steps}),
        _Family("prompt_tokens_total", "Tokens of prompts.", {"": totals.prompt_tokens}),
        _Family(
            "cached_prompt_tokens_total",
            "Of these, known from earlier prompts.",
            {"": totals.cached_tokens},
        ),
        _Family("completion_tokens_total", "Tokens generated.", {"": totals.completion_tokens}),
        _Family("images_total", images, {"": totals.images}),
        _Family("events_total", "What the scheduler did to make room, and refused.", events),
    )
