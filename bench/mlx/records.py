"""What one round of each scenario brought."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bench.mlx.steps import Wait


@dataclass(frozen=True, slots=True)
class TokenRound:
    """`streams` at once through one target: tokens of all, and seconds from first to last byte."""

    round: int
    target: str
    streams: int
    tokens: int
    prompt_tokens: int
    seconds: float

    @property
    def per_second(self) -> float:
        """Tokens per second of all streams together."""
        return self.tokens / self.seconds

    @property
    def step_ms(self) -> float:
        """What a token of every stream took, if all of them ran all the time."""
        return self.seconds * 1e3 * self.streams / self.tokens


@dataclass(frozen=True, slots=True)
class PriorityRound:
    """HIGH requests to one target, one after the other, with `lows` LOW streams in flight."""

    round: int
    target: str
    lows: int
    first_ms: Sequence[float]
    waits: Sequence[Wait]

    @property
    def median_ms(self) -> float:
        """The median time to the first token."""
        return statistics.median(self.first_ms)

    @property
    def worst_steps(self) -> float | None:
        """The most steps of others that a HIGH waited for."""
        return max((wait.steps for wait in self.waits), default=None)

    @property
    def queue_ms(self) -> float | None:
        """The median time in the queue, until the first step of its own began."""
        return statistics.median(wait.queue_ms for wait in self.waits) if self.waits else None


@dataclass(frozen=True, slots=True)
class CancelPhase:
    """From the client's close to a health that no longer counts the row, of each cancelled one.

    `poll_ms` is what asking for the health took, `step_ms` the longest step meanwhile.
    """

    phase: str
    gone_ms: Sequence[float]
    poll_ms: float
    step_ms: float


@dataclass(frozen=True, slots=True)
class ReuseRound:
    """Times to the first token: of something new, and of the same again in a second request."""

    round: int
    target: str
    kind: str
    first_ms: float
    again_ms: float
    whole_ms: float
