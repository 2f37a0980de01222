"""How long a decision takes with few models and with many, by what `model` says."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from router.capabilities import Capability, Requirement
from router.catalog import Alias, Binding, Catalog, Kind, Locality, Model, Provider
from router.resolver import decide

SIZES: Final = (10, 1_000, 20_000)
QUESTIONS: Final = {
    "auto": "auto",
    "a capability": "text",
    "an alias": "gpt-4o",
    "an alias by glob": "claude-opus-4",
    "a model": "cloud/org-7/model-7",
    "a model's id": "writer",
    "an unknown name": "org-3/modle-3",
}
_BATCHES: Final = 5
# What a person writes down does not grow with what providers list.
_WRITTEN: Final = 2


@dataclass(frozen=True, slots=True)
class DecisionRound:
    """One question, asked of one catalog: CPU microseconds of a decision."""

    round: int
    question: str
    models: int
    us: float

    @property
    def target(self) -> str:
        """By what rounds of one question are compared."""
        return str(self.models)


def catalog_of(size: int) -> Catalog:
    """Return so many models: two that the user wrote down, the rest listed by a cloud."""
    box = Provider("box", Kind.OPENAI, "http://127.0.0.1:8080/v1", Locality.LOCAL)
    cloud = Provider("cloud", Kind.OPENAI, "https://cloud.example/v1", Locality.REMOTE)
    models = [
        Model("box", "writer"),
        Model("box", "eyes"),
        *(Model("cloud", f"org-{n}/model-{n}", listed=True) for n in range(size - _WRITTEN)),
    ]
    bound = {
        Capability.TEXT: ("box/writer", "cloud/org-1/model-1"),
        Capability.VISION: ("box/eyes",),
    }
    return Catalog(
        providers={each.name: each for each in (box, cloud)},
        models={model.name: model for model in models},
        bindings={each: Binding(each, names) for each, names in bound.items()},
        aliases={"gpt-4o": Alias("auto"), "claude-*": Alias("text")},
    )


def decisions(rounds: int, batch: int, say: Callable[[str], None]) -> Iterator[DecisionRound]:
    """Time each question with each size of catalog in turn; a batch is so many decisions."""
    catalogs = {size: catalog_of(size) for size in SIZES}
    for catalog in catalogs.values():
        for name in QUESTIONS.values():
            # What is worked out once for a catalog is no part of a decision.
            decide(_asked(name), catalog)
    for number in range(1, rounds + 1):
        say(f"decisions, round {number} of {rounds}")
        for question, name in QUESTIONS.items():
            asks = {
                size: partial(decide, _asked(name), catalog) for size, catalog in catalogs.items()
            }
            for size, us in _least_us(asks, batch).items():
                yield DecisionRound(number, question, size, us)


def _asked(name: str) -> Requirement:
    return Requirement((Capability.TEXT,), model=name)


def _least_us(asks: Mapping[int, Callable[[], object]], batch: int) -> dict[int, float]:
    """Return the CPU microseconds of one call of each, by the batch that was disturbed least.

    A batch of each in turn, so that all of them share the machine's weather.
    """
    found: dict[int, list[float]] = {size: [] for size in asks}
    for _ in range(_BATCHES):
        for size, ask in asks.items():
            before_s = time.thread_time()
            for _ in range(batch):
                ask()
            found[size].append((time.thread_time() - before_s) / batch * 1e6)
    return {size: min(figures) for size, figures in found.items()}
