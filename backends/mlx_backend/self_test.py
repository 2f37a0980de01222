"""Whether rows that share a batch are as good as alone, tried on the model that was just loaded.

mlx-vlm's caches and models change; a model whose rows disturb each other must not be batched.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
from jinja2 import TemplateError

from backends.mlx_backend.batch import Batch
from backends.mlx_backend.errors import ChatError
from backends.mlx_backend.prompt import Prompt

log = logging.getLogger(__name__)

# How many tokens of each row are compared.
_POSITIONS = 6
# Metal and CUDA sum in another order when the batch has another shape.
_TOLERANCE = 0.05
_TOLERANCE_ON_CPU = 0.001
_LEAST_EQUAL = 0.99
# Of 16-bit logits around 16 two neighbours are so far apart: one rounding makes another likeliest.
_NEAR_TIE = 0.125


class _Forced:
    """Takes the tokens that it is given over and over, and keeps the model's log probabilities."""

    needs_tokens = False

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = list(tokens)
        self.seen: list[mx.array] = []

    def first(self, logits: mx.array) -> mx.array:
        """Keep, and take the next token."""
        logits = logits.astype(mx.float32)
        self.seen.append(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
        return mx.array([self._tokens[(len(self.seen) - 1) % len(self._tokens)]])

    def next(self, _token: int | None, logits: mx.array) -> mx.array:
        """Keep, and take the next token."""
        return self.first(logits)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How far rows in a batch were from those alone; `why` is empty where near enough.

    `gap` is the largest Kullback-Leibler divergence of a position, in nats; `equal` the share of
    positions with the same likeliest token.
    """

    gap: float
    equal: float
    why: str


def try_batching(
    open_batch: Callable[[], Batch],
    samples: Sequence[Callable[[], Prompt]],
    progress: Callable[[float], object] = lambda _done: None,
) -> Verdict:
    """Run rows alone and together, with the same forced tokens.

    Alone each prompt is fed as a whole. Together they are begun one behind the other and fed a
    chunk at a time, while those that are in decode; then rows are paused and resumed. `samples`
    make the prompts, so that each is made right before it is begun, as it is when it is served. A
    failure inside MLX is a verdict too. `progress` hears, from 0 to 1, how much is done.
    """
    try:
        gap, equal = _compare(open_batch, samples, progress)
    except Exception as error:
        # Models fail in any way there is. Logged with its stack and converted.
        log.exception("the self-test failed")
        return Verdict(float("inf"), 0.0, f"the model cannot be batched ({type(error).__name__})")
    on_cpu = mx.default_device().type == mx.DeviceType.cpu
    tolerance = _TOLERANCE_ON_CPU if on_cpu else _TOLERANCE
    if gap <= tolerance and equal >= _LEAST_EQUAL:
        return Verdict(gap, equal, "")
    text = f"rows in a batch differ from those alone: probabilities by {gap:.3g} nats, "
    return Verdict(gap, equal, f"{text}{equal:.0%} of the tokens equal")


def _compare(
    open_batch: Callable[[], Batch],
    samples: Sequence[Callable[[], Prompt]],
    progress: Callable[[float], object],
) -> tuple[float, float]:
    alone, makers = [], []
    for number, sample in enumerate(samples, 1):
        # What is wrong with a template each request hears of; it is no fault of batching.
        with suppress(ChatError, TemplateError):
            alone.append(_alone(open_batch(), sample()))
            makers.append(sample)
        progress(number / (2 * len(samples)))
    together = _together(open_batch(), makers)
    progress(1)
    differences = [
        difference(mx.concatenate(one[:_POSITIONS]), mx.concatenate(other[:_POSITIONS]))
        for one, other in zip(alone, together, strict=True)
    ]
    return max(gap for gap, _ in differences), min(equal for _, equal in differences)


def _alone(batch: Batch, prompt: Prompt) -> list[mx.array]:
    forced = _Forced(prompt.ids)
    batch.begin(0, replace(prompt, whole=True), forced)
    while batch.prefill(0) is None:
        pass
    while len(forced.seen) < _POSITIONS:
        batch.decode()
    return forced.seen


def _together(batch: Batch, samples: Sequence[Callable[[], Prompt]]) -> list[list[mx.array]]:
    rows: list[_Forced] = []
    for ticket, sample in enumerate(samples):
        prompt = sample()
        rows.append(_Forced(prompt.ids))
        batch.begin(ticket, prompt, rows[ticket])
        batch.prefill(ticket)
    while unread := [ticket for ticket in range(len(rows)) if ticket not in batch.decoding]:
        for ticket in unread:
            batch.prefill(ticket)
        batch.decode()
    for ticket in (0, len(rows) - 1):
        batch.pause(ticket)
        batch.decode()
        batch.resume(ticket)
    while any(len(forced.seen) < _POSITIONS for forced in rows):
        batch.decode()
    return [forced.seen for forced in rows]


def difference(alone: mx.array, together: mx.array) -> tuple[float, float]:
    """Compare log probabilities (positions, V); returns `gap` and `equal` of a `Verdict`.

    Not the largest difference of a token: one rounding of a 16-bit logit is 0.06 to 0.25, and of a
    whole vocabulary some always round otherwise. A likeliest token that was nearly so counts as
    equal.
    """
    lost = mx.where(alone > -mx.inf, mx.exp(alone) * (alone - together), 0.0)
    gap: Any = mx.max(mx.abs(mx.sum(lost, axis=-1))).item()
    likeliest = mx.argmax(together, axis=-1, keepdims=True)
    missing = mx.max(alone, axis=-1, keepdims=True) - mx.take_along_axis(alone, likeliest, axis=-1)
    equal: Any = mx.mean((missing <= _NEAR_TIE).astype(mx.float32)).item()
    return gap, equal
