"""What the backend counts, as Prometheus reads it.

The text format, version 0.0.4: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from collections.abc import Iterator, Mapping

from backends.mlx_backend.generation import EngineStatus

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PREFIX = "signalbox_mlx_"


def exposition(now: EngineStatus) -> str:
    """Return all metrics as text; names and labels are fixed, so nothing has to be escaped."""
    totals = now.totals
    families = (
        (
            "batched",
            "gauge",
            "1 where rows share a batch, 0 where the self-test forbids it.",
            {"": float(not now.why)},
        ),
        (
            "queued",
            "gauge",
            "Requests that wait, by priority.",
            {f'{{priority="{each.name.lower()}"}}': count for each, count in now.queued.items()},
        ),
        (
            "rows",
            "gauge",
            "Generations that have left the queue, by state.",
            {
                '{state="prefilling"}': now.prefilling,
                '{state="decoding"}': now.decoding,
                '{state="paused"}': now.paused,
            },
        ),
        (
            "memory_bytes",
            "gauge",
            "What MLX holds, weights and caches together.",
            {"": now.memory_mb * 1024 * 1024},
        ),
        ("models_loaded", "gauge", "Models in memory.", {"": len(now.models)}),
        ("model_loads_total", "counter", "Models loaded since the start.", {"": now.loads}),
        (
            "steps_total",
            "counter",
            "Decode steps, whatever the number of rows.",
            {"": totals.steps},
        ),
        ("prompt_tokens_total", "counter", "Tokens of prompts.", {"": totals.prompt_tokens}),
        (
            "cached_prompt_tokens_total",
            "counter",
            "Of these, known from earlier prompts.",
            {"": totals.cached_tokens},
        ),
        ("completion_tokens_total", "counter", "Tokens generated.", {"": totals.completion_tokens}),
        (
            "images_total",
            "counter",
            "Images encoded; those known from before are not.",
            {"": totals.images},
        ),
        (
            "image_encode_worst_seconds",
            "gauge",
            "The longest that one image took.",
            {"": totals.worst_image_s},
        ),
        (
            "events_total",
            "counter",
            "What the scheduler did to make room, and refused.",
            {f'{{event="{name}"}}': count for name, count in now.events.items()},
        ),
    )
    return "".join(line for family in families for line in _lines(*family))


def _lines(name: str, kind: str, text: str, values: Mapping[str, float]) -> Iterator[str]:
    yield f"# HELP {_PREFIX}{name} {text}\n"
    yield f"# TYPE {_PREFIX}{name} {kind}\n"
    for labels, value in values.items():
        yield f"{_PREFIX}{name}{labels} {value}\n"
