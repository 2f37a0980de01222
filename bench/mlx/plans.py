"""How much is measured, by what a model can do in a few minutes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from bench.mlx import conversations
from bench.mlx.conversations import Subject
from bench.mlx.targets import OPEN_ROWS


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured, in sizes that suit the model.

    `subject` is what makes it talk for `low_tokens` without an end. `streams` are how many at once
    get `tokens` each; `lows` how many LOW streams `highs` HIGH requests have to pass, each round;
    `cancels` of each phase; `reuses` of a picture and a text of `words`.
    """

    subject: Subject
    rounds: int
    streams: Sequence[int]
    tokens: int
    lows: Sequence[int]
    low_tokens: int
    highs: int
    cancels: int
    reuses: int
    words: int
    sees: bool
    patience_s: float


TINY: Final = Plan(
    subject=conversations.counting,
    rounds=5,
    streams=(1, 4, 8, OPEN_ROWS),
    tokens=256,
    lows=(3, 16, 64),
    low_tokens=3000,
    highs=10,
    cancels=50,
    reuses=5,
    words=600,
    sees=True,
    patience_s=120,
)
LARGE: Final = replace(TINY, subject=conversations.story, tokens=128, low_tokens=2000, cancels=20)
# A CPU reads ten of its tokens a second and writes eight.
SMOLLM2: Final = replace(
    LARGE,
    rounds=2,
    streams=(1, 4),
    tokens=16,
    lows=(3,),
    highs=2,
    cancels=3,
    reuses=1,
    words=60,
    sees=False,
    patience_s=300,
)
QUICK: Final = replace(
    TINY,
    rounds=1,
    streams=(1, 4),
    tokens=32,
    lows=(3, 16),
    low_tokens=1000,
    highs=2,
    cancels=3,
    reuses=1,
    words=300,
    patience_s=30,
)
