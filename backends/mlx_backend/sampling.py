"""How one row of the batch chooses its next token.

In this order: penalties and biases, the grammar's mask, temperature, top_k, top_p, min_p, and a
draw whose randomness depends on seed and position only.
"""

import hashlib
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import mlx.core as mx

# Colder than this only the likeliest token is ever drawn, and logits divided by it would leave
# what a float32 holds.
_COLDEST = 1e-6


@dataclass(frozen=True, slots=True)
class SamplingPlan:
    """How tokens are drawn; every field has a value, as in `generation.Sampling`."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    seed: int
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    top_logprobs: int | None = None

    @property
    def penalizes(self) -> bool:
        """Whether earlier tokens change what is drawn."""
        return (self.frequency_penalty, self.presence_penalty, self.repetition_penalty) != (0, 0, 1)

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature < _COLDEST

    @property
    def plain(self) -> bool:
        """Whether the likeliest token is always taken, and nothing else asked for."""
        return (
            self.greedy and not self.penalizes and not self.logit_bias and self.top_logprobs is None
        )


class Mask(Protocol):
    """What a grammar allows next."""

    def apply(self, logits: mx.array) -> mx.array:
        """Rule out every token that may not come next."""
        ...

    def accept(self, token: int) -> None:
        """Take note of a token that came."""
        ...


@dataclass(frozen=True, slots=True)
class Chances:
    """Log probabilities of a token and of the likeliest ones in its place, first the likeliest."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


def position_key(seed: int, position: int) -> mx.array:
    """Return the random key of one position.

    It depends on seed and position only, so a row that is paused and resumed, or shares a batch,
    draws what it would have drawn alone.
    """
    text = f"{seed}:{position}".encode()
    digest = hashlib.blake2b(text, digest_size=8).digest()
    key: mx.array = mx.random.key(int.from_bytes(digest, "big"))
    return key


class RowSampler:
    """Draws the tokens of one row; `tokens` are those that it got before, in an earlier life.

    With `first` for the token after the prompt and `next` for the others it is what a
    `batch.Batch` asks for its row. `chances` hands out what was asked for about each token, in
    their order.
    """

    def __init__(
        self,
        plan: SamplingPlan,
        prompt: Sequence[int] = (),
        *,
        mask: Mask | None = None,
        tokens: Sequence[int] = (),
    ) -> None:
        self._plan = plan
        self._mask = mask
        self._position = len(tokens)
        self.needs_tokens = mask is not None or plan.penalizes
        self._counts = Counter(tokens)
        self._seen = set(prompt) | set(tokens) if plan.repetition_penalty != 1 else set()
        self._told: deque[tuple[mx.array, ...]] = deque()
        if mask is not None:
            for token in tokens:
                mask.accept(token)

    def first(self, logits: mx.array) -> mx.array:
        """Draw from the logits (1, V) after a prompt; returns the token (1,)."""
        return self._draw(logits)

    def next(self, token: int | None, logits: mx.array) -> mx.array:
        """Draw from the logits (1, V) after a token."""
        if self.needs_tokens:
            if token is None:
                raise RuntimeError("this row must be told its tokens")
            self._counts[token] += 1
            self._seen.add(token)
            if self._mask is not None:
                self._mask.accept(token)
        return self._draw(logits)

    def chances(self) -> Chances | None:
        """Return what was asked for about the oldest token not yet told of; None where nothing."""
        if not self._told:
            return None
        values: list[Any] = [each.tolist() for each in self._told.popleft()]
        token, chance, ids, chances = values
        return Chances(token, chance, tuple(zip(ids, chances, strict=True)))

    def _draw(self, logits: mx.array) -> mx.array:
        plan = self._plan
        raw = logits.astype(mx.float32)
        wanted = self._penalized(raw)
        if self._mask is not None:
            wanted = self._mask.apply(wanted)
        if plan.greedy:
            token = mx.argmax(wanted, axis=-1)
        else:
            # Scaled last but for the cuts, which speak of the probabilities that are drawn from.
            key = position_key(plan.seed, self._position)
            token = mx.random.categorical(restrict(wanted / plan.temperature, plan), key=key)
        self._position += 1
        if plan.top_logprobs is not None:
            self._tell(raw, token, plan.top_logprobs)
        return token

    def _penalized(self, logits: mx.array) -> mx.array:
        plan = self._plan
        if plan.repetition_penalty != 1 and self._seen:
            ids = mx.array(sorted(self._seen))
            seen = logits[:, ids]
            scale = plan.repetition_penalty
            scaled = mx.where(seen > 0, seen / scale, seen * scale)
            logits = logits.at[:, ids].add(scaled - seen)
        changes = dict(plan.logit_bias)
        if plan.frequency_penalty or plan.presence_penalty:
            for token, count in self._counts.items():
                penalty = plan.frequency_penalty * count + plan.presence_penalty
                changes[token] = changes.get(token, 0.0) - penalty
        if changes:
            values = mx.array(list(changes.values()), dtype=mx.float32)
            logits = logits.at[:, mx.array(list(changes))].add(values)
        return logits

    def _tell(self, logits: mx.array, token: mx.array, alternatives: int) -> None:
        # What the model thought, before anything that the request asked for.
        chances = (logits - mx.logsumexp(logits, axis=-1, keepdims=True))[0]
        ids = mx.argsort(-chances)[:alternatives]
        told = (token[0], chances[token[0]], ids, chances[ids])
        mx.async_eval(*told)  # type: ignore[no-untyped-call]  # mlx's stubs leave it open
        self._told.append(told)


def restrict(logits: mx.array, plan: SamplingPlan) -> mx.array:
    """Rule out tokens by top_k, then top_p, then min_p; the likeliest always stays."""
    if 0 < plan.top_k < logits.shape[-1]:
        least = mx.sort(logits, axis=-1)[..., -plan.top_k][..., None]
        logits = mx.where(logits < least, -mx.inf, logits)
    if plan.top_p < 1:
        order = mx.argsort(-logits, axis=-1)
        probabilities = mx.softmax(mx.take_along_axis(logits, order, axis=-1), axis=-1)
        before = mx.cumsum(probabilities, axis=-1) - probabilities
        ranks = mx.argsort(order, axis=-1)
        kept = mx.take_along_axis(before < plan.top_p, ranks, axis=-1)
        # The first is kept even by a top_p that is none in a float32.
        logits = mx.where(kept | (ranks == 0), logits, -mx.inf)
    if plan.min_p > 0:
        probabilities = mx.softmax(logits, axis=-1)
        least = plan.min_p * mx.max(probabilities, axis=-1, keepdims=True)
        logits = mx.where(probabilities < least, -mx.inf, logits)
    return logits
