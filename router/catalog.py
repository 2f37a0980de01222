"""Frozen values that describe what can serve what, and the snapshot that holds them all."""

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from backends.wire import Priority
from router.capabilities import Capability, Dialect

# The name that leaves the choice to the map.
AUTO = "auto"


class Kind(StrEnum):
    """How a provider is spoken to."""

    BUILTIN = "builtin"
    OLLAMA = "ollama"
    OPENAI = "openai"
    LITELLM = "litellm"
    PROCESS = "process"


class Locality(StrEnum):
    """Whether a prompt stays with its owner."""

    LOCAL = "local"
    REMOTE = "remote"


class Source(StrEnum):
    """Who says a fact or a binding, most trusted first."""

    USER = "user"
    ASSIGNMENT = "assignment"
    PROBE = "probe"
    PROVIDER = "provider"


@dataclass(frozen=True, slots=True)
class Provider:
    """Who serves models: an address, how to speak to it, and whether prompts stay local there.

    `api_key` is sent as a bearer token, or as `key_header` says, and never shown. `dialects` are
    the conversations that it has endpoints for. One that
    `asks_usage` is to tell the tokens of its streams, whether the client wants to know or not.
    """

    name: str
    kind: Kind
    base_url: str
    locality: Locality
    api_key: str | None = field(default=None, repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    dialects: frozenset[Dialect] = frozenset({Dialect.CHAT})
    key_header: str = "authorization"
    asks_usage: bool = False

    def speaks(self, dialect: Dialect | None) -> bool:
        """Tell whether it has a dialect; None stands for OpenAI's endpoints that are no dialogue.

        Those the builtin backend has not; whoever else speaks the protocol may have them.
        """
        if dialect is None:
            return self.kind is not Kind.BUILTIN
        return dialect in self.dialects


@dataclass(frozen=True, slots=True)
class Fact:
    """That a model can, or cannot, do something, and who says so."""

    value: bool
    source: Source
    date: str | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """One model at one provider. `present` is False for a builtin model that is not on disk."""

    provider: str
    id: str
    facts: Mapping[str, Fact] = field(default_factory=dict)
    context_length: int | None = None
    present: bool = True
    other_names: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name that clients and the map use."""
        return f"{self.provider}/{self.id}"


@dataclass(frozen=True, slots=True)
class Binding:
    """The models of one capability, in the user's order, and what they may be used for.

    With `next_while_starting` the others serve while the process of one is not ready.
    """

    capability: Capability
    models: tuple[str, ...]
    allow_remote_fallback: bool = False
    local_only: bool = False
    next_while_starting: bool = False


@dataclass(frozen=True, slots=True)
class Alias:
    """Another name: what it leads to, and the priority of those who use it and name none."""

    to: str
    priority: Priority | None = None


@dataclass(frozen=True, slots=True)
class Catalog:
    """An immutable snapshot of all that routing knows. Model names are `provider/id`.

    A binding without models is there where it forbids something: that holds all the same.
    `left_out` are providers that are configured and cannot be used now.
    """

    providers: Mapping[str, Provider]
    models: Mapping[str, Model]
    bindings: Mapping[Capability, Binding]
    aliases: Mapping[str, Alias] = field(default_factory=dict)
    local_only: bool = False
    left_out: Mapping[str, Locality] = field(default_factory=dict)

    def model(self, name: str) -> Model | None:
        """Return the model `provider/id`: a known one, or one that its provider may know.

        Only the builtin provider's list is complete; other providers are asked by calling them.
        """
        known = self.models.get(name)
        if known is not None:
            return known
        provider_name, _, model_id = name.partition("/")
        provider = self.providers.get(provider_name)
        if provider is None or not model_id:
            return None
        if provider.kind is Kind.BUILTIN:
            same = (m for m in self.models.values() if m.provider == provider_name)
            return next((model for model in same if model_id in model.other_names), None)
        return Model(provider=provider_name, id=model_id)

    def by_id(self, model_id: str) -> Model | None:
        """Return the first model, in file order, that bears this id or another of its names."""
        for model in self.models.values():
            if model_id == model.id or model_id in model.other_names:
                return model
        return None

    def alias(self, name: str | None) -> Alias | None:
        """Return the alias that a name is: exact names first, then globs in file order."""
        if name is None or name == AUTO or name in set(Capability):
            return None
        if name in self.aliases:
            return self.aliases[name]
        for pattern, alias in self.aliases.items():
            if fnmatch.fnmatchcase(name, pattern):
                return alias
        return None

    def bound(self, capability: Capability) -> tuple[Model, ...]:
        """Return the models bound to a capability; dangling ones count as not there."""
        binding = self.bindings.get(capability)
        if binding is None:
            return ()
        models = (self.model(name) for name in binding.models)
        return tuple(model for model in models if model is not None)

    def behind_absent(self, capability: Capability) -> Mapping[str, str]:
        """Return the bound models behind one that is not here and may be local: name and that one.

        Of a provider that was removed nobody knows any more where it was; one that is only left out
        is where it is configured to be.
        """
        binding = self.bindings.get(capability)
        names = () if binding is None else binding.models
        for position, name in enumerate(names):
            provider = name.partition("/")[0]
            if self.model(name) is None and self.left_out.get(provider) is not Locality.REMOTE:
                return dict.fromkeys(names[position + 1 :], name)
        return {}

    def stays_local(self, capabilities: Iterable[Capability]) -> bool:
        """Tell whether what needs these capabilities must not leave the machine."""
        bindings = map(self.bindings.get, capabilities)
        return self.local_only or any(binding and binding.local_only for binding in bindings)

    def points_at(self, provider: str) -> bool:
        """Tell whether some capability is bound to a model of this provider."""
        return any(
            model.provider == provider
            for capability in self.bindings
            for model in self.bound(capability)
        )
