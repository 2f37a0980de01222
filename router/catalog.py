"""Frozen values that describe what can serve what, and the snapshot that holds them all."""

import fnmatch
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from backends.wire import Priority
from router.capabilities import Capability, Dialect, Enforce
from router.likeness import Names
from router.shims import Shim

# The name that leaves the choice to the map.
AUTO = "auto"


_KEY_HEADERS = {
    "authorization": (b"authorization", b"Bearer "),
    "x-api-key": (b"x-api-key", b""),
}


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
    TABLE = "litellm table"


@dataclass(frozen=True, slots=True)
class Provider:
    """Who serves models: an address, how to speak to it, and whether prompts stay local there.

    `api_key` is sent as a bearer token, or as `key_header` says, and never shown. `dialects` are
    the conversations that it has endpoints for. One that
    `asks_usage` is to tell the tokens of its streams, whether the client wants to know or not.
    `cloud` is the name that LiteLLM has for it, in its table too; None where it has none. `shims`
    change what it is asked as chats.
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
    cloud: str | None = None
    shims: frozenset[Shim] = frozenset()

    def own_headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers that every request to it carries: those that are set, and its key."""
        headers = [(name.encode(), value.encode()) for name, value in self.headers]
        if self.api_key is not None:
            name, scheme = _KEY_HEADERS[self.key_header]
            headers.append((name, scheme + self.api_key.encode()))
        return headers

    def speaks(self, dialect: Dialect | None) -> bool:
        """Tell whether it has a dialect; None stands for OpenAI's endpoints that are no dialogue.

        Those the builtin backend has not, and LiteLLM translates chats alone; whoever else speaks
        the protocol may have them.
        """
        if dialect is None:
            return self.kind not in {Kind.BUILTIN, Kind.LITELLM}
        return dialect in self.dialects

    def serves(self, dialect: Dialect | None) -> bool:
        """Tell whether it can answer in a dialect: in its own words, or in those of a chat."""
        return self.speaks(dialect) or self.needs_translation(dialect)

    def needs_translation(self, dialect: Dialect | None) -> bool:
        """Tell whether what is asked in a dialect has to be put as a chat for it."""
        return dialect is not None and not self.speaks(dialect) and self.speaks(Dialect.CHAT)


@dataclass(frozen=True, slots=True)
class Fact:
    """That a model can, or cannot, do something, who says so, when, and in what words."""

    value: bool
    source: Source
    date: str | None = None
    why: str | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """One model at one provider. `present` is False for a builtin model that is not on disk.

    `locality` is what the provider says of this model alone, `listed` that it is here for no other
    reason than that its provider lists it.
    """

    provider: str
    id: str
    facts: Mapping[str, Fact] = field(default_factory=dict)
    context_length: int | None = None
    present: bool = True
    other_names: tuple[str, ...] = ()
    locality: Locality | None = None
    listed: bool = False

    @property
    def name(self) -> str:
        """The name that clients and the map use."""
        return f"{self.provider}/{self.id}"


def locality_of(provider: Provider, model: Model) -> Locality | None:
    """Return where a prompt for this model ends up; None as long as nobody has said.

    An Ollama server here passes the prompts of some models on to its cloud: only its own list tells
    which ones, so that of a model that is not in it nothing is known.
    """
    if provider.locality is Locality.REMOTE:
        return Locality.REMOTE
    if model.locality is not None or provider.kind is Kind.OLLAMA:
        return model.locality
    return provider.locality


@dataclass(frozen=True, slots=True)
class Binding:
    """The models of one capability, in the user's order, and what they may be used for.

    With `next_while_starting` the others serve while the process of one is not ready. `enforce`
    says what is done about the schemas that answers are asked for.
    """

    capability: Capability
    models: tuple[str, ...]
    allow_remote_fallback: bool = False
    local_only: bool = False
    next_while_starting: bool = False
    enforce: Enforce = Enforce.OFF


@dataclass(frozen=True, slots=True)
class Alias:
    """Another name: what it leads to, and the priority of those who use it and name none."""

    to: str
    priority: Priority | None = None


def as_it_is(model: Model, _provider: Provider) -> Model:
    """Return a model of which nothing further is known."""
    return model


Described = Callable[[Model, Provider], Model]


@dataclass(frozen=True, slots=True)
class Catalog:
    """An immutable snapshot of all that routing knows. Model names are `provider/id`.

    A binding without models is there where it forbids something: that holds all the same.
    `left_out` are providers that are configured and cannot be used now. `described` returns a model
    that nobody lists with what is known of it all the same.
    """

    providers: Mapping[str, Provider]
    models: Mapping[str, Model]
    bindings: Mapping[Capability, Binding]
    aliases: Mapping[str, Alias] = field(default_factory=dict)
    local_only: bool = False
    left_out: Mapping[str, Locality] = field(default_factory=dict)
    described: Callable[[Model, Provider], Model] = field(
        default=as_it_is, repr=False, compare=False
    )
    _by_id: Mapping[str, Model] = field(init=False, repr=False, compare=False)
    _assigned: frozenset[tuple[str, str]] = field(init=False, repr=False, compare=False)
    # Sorted when somebody first names what is not there.
    _names: Names | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Looked up by requests: a provider may list tens of thousands of models.
        object.__setattr__(self, "_by_id", self._index())
        pairs = ((need, name) for need, each in self.bindings.items() for name in each.models)
        object.__setattr__(self, "_assigned", frozenset(pairs))

    def _index(self) -> dict[str, Model]:
        """Return the models by id and by further names, bare and with their provider's before it.

        Of each the first in file order. A bare id must not lead off the machine because a cloud
        happens to have a model of that name: what a provider merely lists has one if it stays here.
        """
        index: dict[str, Model] = {}
        for model in self.models.values():
            for name in model.other_names:
                index.setdefault(f"{model.provider}/{name}", model)
            provider = self.providers.get(model.provider)
            if not model.listed or (
                provider is not None and locality_of(provider, model) is Locality.LOCAL
            ):
                for name in (model.id, *model.other_names):
                    index.setdefault(name, model)
        return index

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
        other = self._by_id.get(name)
        if other is not None and other.provider == provider_name:
            return other
        if provider.kind is Kind.BUILTIN:
            return None
        return self.described(Model(provider_name, model_id), provider)

    def by_id(self, model_id: str) -> Model | None:
        """Return the first model, in file order, that bears this id or another of its names.

        One that a remote provider merely lists is named with its provider.
        """
        return self._by_id.get(model_id)

    def like(self, name: str) -> list[str]:
        """Return names that clients may use and that are like one that is not there."""
        names = self._names
        if names is None:
            names = self._sorted()
            object.__setattr__(self, "_names", names)
        return names.like(name)

    def _sorted(self) -> Names:
        models = self.models.values()
        written = (
            AUTO,
            *(capability for capability in self.bindings if self.bound(capability)),
            *self.aliases,
            *(model.name for model in models if not model.listed),
        )
        return Names(written, (model.name for model in models if model.listed))

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

    def is_assigned(self, model: Model, need: str) -> bool:
        """Tell whether somebody assigned this model to what is needed."""
        return (need, model.name) in self._assigned

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
