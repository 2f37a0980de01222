"""Whether rows that share a batch are as good as alone, tried on the model that was just loaded.

mlx-vlm's caches and models change; a model whose rows disturb each other must not be batched.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import mlx.core as mx

from backends.mlx_backend.batch import Batch
from backends.mlx_backend.prompt import Prompt

_STEPS = 3
# Metal and CUDA sum in another order when the batch has another shape.
_TOLERANCE = 0.05
_TOLERANCE_ON_CPU = 0.001
_LEAST_EQUAL = 0.99
# Of 16-bit logits around 16 two neighbours are so far apart: one rounding makes another likeliest.
_NEAR_TIE = 0.125


class _Forced:
    """Takes the tokens that it is given, and keeps the log probabilities that the model had."""

    needs_tokens = False

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = list(tokens)
        self.seen: list[mx.array] = []

    def first(self, logits: mx.array) -> mx.array:
        """Keep, and take the next token."""
        logits = logits.astype(mx.float32)
        self.seen.append(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
        return mx.array([self._tokens[len(self.seen) - 1]])

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
    prompts: Sequence[Prompt],
    progress: Callable[[float], object] = lambda _done: None,
) -> Verdict:
    """Run rows alone and together, joined, paused and resumed, with the same forced tokens.

    A failure inside MLX is a verdict too. `progress` hears, from 0 to 1, how much is done.
    """
    try:
        gap, equal = _compare(open_batch, prompts, progress)
    except Exception as error:  # noqa: BLE001  models fail in any way there is
        return Verdict(float("inf"), 0.0, f"the model cannot be batched ({type(error).__name__})")
    on_cpu = mx.default_device().type == mx.DeviceType.cpu
    tolerance = _TOLERANCE_ON_CPU if on_cpu else _TOLERANCE
    if gap <= tolerance and equal >= _LEAST_EQUAL:
        return Verdict(gap, equal, "")
    text = f"rows in a batch differ from those alone: probabilities by {gap:.3g} nats, "
    return Verdict(gap, equal, f"{text}{equal:.0%} of the tokens equal")


def _compare(
    open_batch: Callable[[], Batch],
    prompts: Sequence[Prompt],
    progress: Callable[[float], object],
) -> tuple[float, float]:
    forwards, whole = count(1), len(prompts) * (2 + _STEPS) + _STEPS

    def read(batch: Batch, ticket: int, prompt: Prompt, forced: _Forced) -> None:
        _read(batch, ticket, prompt, forced)
        progress(next(forwards) / whole)

    def decode(batch: Batch, steps: int) -> None:
        for _ in range(steps):
            batch.decode()
            progress(next(forwards) / whole)

    alone = [_Forced(prompt.ids) for prompt in prompts]
    for prompt, forced in zip(prompts, alone, strict=True):
        batch = open_batch()
        read(batch, 0, prompt, forced)
        decode(batch, _STEPS)
    together = [_Forced(prompt.ids) for prompt in prompts]
    batch = open_batch()
    for ticket, (prompt, forced) in enumerate(zip(prompts, together, strict=True)):
        read(batch, ticket, prompt, forced)
    decode(batch, 1)
    batch.pause(0)
    batch.resume(0)
    decode(batch, _STEPS - 1)
    gaps: list[float] = []
    equals: list[float] = []
    for one, other in zip(alone, together, strict=True):
        gap, equal = difference(mx.concatenate(one.seen), mx.concatenate(other.seen))
        gaps.append(gap)
        equals.append(equal)
    return max(gaps), min(equals)


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


def _read(batch: Batch, ticket: int, prompt: Prompt, forced: _Forced) -> None:
    batch.begin(ticket, prompt, forced)
    while batch.prefill(ticket) is None:
        pass
