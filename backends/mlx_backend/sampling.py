"""How one row of the batch chooses its next token.

The batch's own sampler stays at argmax, because mlx-vlm has one for all rows. A row that wants
more puts a `RowSampler` last among its logits processors: it chooses the token and returns logits
in which nothing else is possible.
"""

import hashlib
from dataclasses import dataclass

import mlx.core as mx


@dataclass(frozen=True, slots=True)
class SamplingPlan:
    """How tokens are drawn; every field has a value."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    seed: int

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature == 0


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
    """A logits processor that draws the token of one row.

    mlx-vlm calls it with the prompt for the first token, and `process_last_token` after that;
    `position` counts the tokens drawn, and starts beyond 0 when a row is resumed.
    """

    def __init__(self, plan: SamplingPlan, position: int = 0) -> None:
        self._plan = plan
        self.position = position

    def __call__(self, _tokens: mx.array, logits: mx.array) -> mx.array:
        """Draw the first token after a prompt."""
        return self._draw(logits)

    def process_last_token(self, _token: int, logits: mx.array) -> mx.array:
        """Draw a further token."""
        return self._draw(logits)

    def _draw(self, logits: mx.array) -> mx.array:
        key = position_key(self._plan.seed, self.position)
        self.position += 1
        scaled = logits.astype(mx.float32) / self._plan.temperature
        token = mx.random.categorical(restrict(scaled, self._plan), key=key)
        chosen = mx.arange(logits.shape[-1])[None, :] == token[:, None]
        return mx.where(chosen, 0.0, -mx.inf)


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
        logits = mx.where(kept, logits, -mx.inf)
    if plan.min_p > 0:
        probabilities = mx.softmax(logits, axis=-1)
        least = plan.min_p * mx.max(probabilities, axis=-1, keepdims=True)
        logits = mx.where(probabilities < least, -mx.inf, logits)
    return logits
