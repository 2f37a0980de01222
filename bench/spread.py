"""A figure over several rounds: its median, and how far the rounds lay apart."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Spread:
    """The median, smallest and largest of some rounds' figures, all in the figures' unit."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> Self:
        """Return the spread of at least one figure; ValueError of none."""
        if not figures:
            raise ValueError("a spread needs at least one figure")
        return cls(statistics.median(figures), min(figures), max(figures))

    def show(self, form: str = ",.0f") -> str:
        """Return it for people: `1,234 (1,100–1,400)`, or the figure alone of a single round."""
        if self.low == self.high:
            return format(self.median, form)
        return f"{self.median:{form}} ({self.low:{form}}–{self.high:{form}})"


def percentile(figures: Sequence[float], share: float) -> float:
    """Return the smallest figure that `share` (0 to 1) of all figures do not exceed."""
    if not figures:
        raise ValueError("a percentile needs at least one figure")
    ordered = sorted(figures)
    # Nearest rank: a figure that was measured, never one between two.
    rank = -(-len(ordered) * share // 1)
    return ordered[max(0, min(len(ordered), int(rank)) - 1)]
