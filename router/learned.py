"""What was learned of models since the file was written: their providers' lists, and probes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from router.catalog import Fact, Model, Provider, Source
from router.metadata import Tag


@dataclass(frozen=True, slots=True)
class Listing:
    """The models that a provider lists, by each of their names, as it was at `date`.

    `provider` is whom the list came from: at another address, or with another key, it says nothing.
    `tags` is what an Ollama said of them.
    """

    provider: Provider
    models: Mapping[str, Model]
    date: str
    tags: tuple[Tag, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What trying it has shown of one capability of a model; None where it showed nothing."""

    value: bool | None
    date: str
    why: str


@dataclass(frozen=True, slots=True)
class Learned:
    """Lists by provider, and verdicts by model and capability. A change makes a new one."""

    listings: Mapping[str, Listing] = field(default_factory=dict)
    verdicts: Mapping[str, Mapping[str, Verdict]] = field(default_factory=dict)

    def with_listing(self, listing: Listing) -> "Learned":
        """Return what is known once this list is."""
        return replace(self, listings={**self.listings, listing.provider.name: listing})

    def with_verdicts(self, model: str, verdicts: Mapping[str, Verdict]) -> "Learned":
        """Return what is known once these verdicts are, beside the model's other ones."""
        both = {**self.verdicts.get(model, {}), **verdicts}
        return replace(self, verdicts={**self.verdicts, model: both})

    def without_verdicts(self, model: str) -> "Learned":
        """Return what is known without this model's verdicts."""
        rest = {name: each for name, each in self.verdicts.items() if name != model}
        return replace(self, verdicts=rest)

    def applied(self, model: Model, provider: Provider) -> Model:
        """Return a model with all that is known of it: the user, then probes, then its provider."""
        listing = self._of(provider)
        told = listing.models.get(model.name) if listing is not None else None
        tried = self._tried(model.name)
        if told is None and not tried:
            return model
        users = {need: fact for need, fact in model.facts.items() if fact.source is Source.USER}
        lists = told or Model(model.provider, model.id)
        return replace(
            model,
            facts={**lists.facts, **model.facts, **tried, **users},
            context_length=model.context_length or lists.context_length,
            locality=model.locality or lists.locality,
        )

    def listed(self, providers: Mapping[str, Provider]) -> Iterator[Model]:
        """Yield what these providers list, in their order, as their lists and probes tell it."""
        for provider in providers.values():
            listing = self._of(provider)
            for model in listing.models.values() if listing is not None else ():
                tried = self._tried(model.name) if model.name in self.verdicts else None
                yield replace(model, facts={**model.facts, **tried}) if tried else model

    def lacks(self, name: str, providers: Mapping[str, Provider]) -> bool:
        """Tell whether a model's provider has a list, and that does not name it."""
        provider = providers.get(name.partition("/")[0])
        listing = None if provider is None else self._of(provider)
        return listing is not None and name not in listing.models

    def _of(self, provider: Provider) -> Listing | None:
        listing = self.listings.get(provider.name)
        return listing if listing is not None and listing.provider == provider else None

    def _tried(self, model: str) -> dict[str, Fact]:
        return {
            need: Fact(verdict.value, Source.PROBE, verdict.date, verdict.why)
            for need, verdict in self.verdicts.get(model, {}).items()
            if verdict.value is not None
        }


NOTHING = Learned()
