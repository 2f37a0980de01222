"""The models in memory: what fits beside them, and which of them may go."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(slots=True)
class _Resident:
    size_mb: float
    used_at: float
    # The number of the decode step that it had last.
    last_turn: int = 0


class Residents:
    """Loaded models by name. `memory_mb` bounds the sum of their sizes; None: nothing does."""

    def __init__(self, memory_mb: float | None) -> None:
        self._memory_mb = memory_mb
        self._models: dict[str, _Resident] = {}
        self._turns = 0

    def __repr__(self) -> str:
        return f"<Residents {', '.join(self._models)}>"

    def __contains__(self, model: str) -> bool:
        return model in self._models

    @property
    def names(self) -> tuple[str, ...]:
        """The loaded models, first the one that was loaded first."""
        return tuple(self._models)

    def fits(self, size_mb: float) -> bool:
        """Tell whether a model may be loaded now; beside no other any may."""
        if self._memory_mb is None or not self._models:
            return True
        held = sum(resident.size_mb for resident in self._models.values())
        return held + size_mb <= self._memory_mb

    def add(self, model: str, size_mb: float, now: float) -> None:
        """Take note that a model is loaded."""
        self._models[model] = _Resident(size_mb, now)

    def remove(self, model: str) -> None:
        """Take note that a model is gone."""
        self._models.pop(model, None)

    def use(self, model: str, now: float) -> None:
        """Take note that a model is of use."""
        self._models[model].used_at = now

    def least_recently_used(self, may_go: Callable[[str], bool]) -> str | None:
        """Return the model, of those that may go, that has been of no use for the longest."""
        return min(filter(may_go, self._models), key=self.used_at, default=None)

    def used_at(self, model: str) -> float:
        """Tell when a model was last of use."""
        return self._models[model].used_at

    def take_turn(self, models: Iterable[str]) -> str:
        """Return the one of these models whose last turn is the longest ago; it has its turn."""
        model = min(models, key=lambda name: self._models[name].last_turn)
        self._turns += 1
        self._models[model].last_turn = self._turns
        return model
