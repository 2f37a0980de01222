"""What no single setting can tell: pairs of settings that cannot both be meant (pure)."""

from collections.abc import Iterable, Iterator

from backends.catalogue import find_builtin
from router.capabilities import FAMILIES, Capability
from router.settings.providers import BuiltinProvider, ProcessProvider, Provider
from router.settings.tree import Settings

_RESERVED = frozenset({"auto", *Capability})


def contradictions(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield the place and the text of each fault."""
    yield from _bindings(settings)
    yield from _models(settings)
    yield from _aliases(settings)
    yield from _lanes(settings)
    yield from _limits(settings)
    yield from _providers(settings)


def ahead_of_time(settings: Settings) -> Iterator[str]:
    """Yield a line for whatever is said of a provider that the file does not have.

    It may be one that is added at run time, of which nothing can be said elsewhere.
    """
    places = {f"models.{name}": provider_of(name) for name in settings.models}
    places |= {f"lanes.{name}": name for name in settings.lanes if name != "default"}
    for place, name in places.items():
        if name not in settings.providers:
            here = ", ".join(settings.providers) or "none"
            yield (
                f"{place}: the file has no provider {name!r} (it has: {here}); "
                "this is for one that is added under that name"
            )


def _bindings(settings: Settings) -> Iterator[tuple[str, str]]:
    for capability, binding in settings.capabilities.items():
        place = f"capabilities.{capability}"
        for name in binding.models:
            if provider_of(name) not in settings.providers:
                unknown = _unknown_provider(name, settings.providers)
                yield (
                    place,
                    f"{name}: {unknown}; bind one that was added by signalbox capabilities assign",
                )
            provider = settings.providers.get(provider_of(name))
            if capability in FAMILIES and isinstance(provider, BuiltinProvider):
                yield place, f"{name}: the builtin backend serves chat only; bind another model"
            model = settings.models.get(name)
            if model is not None and model.capabilities.get(capability) is False:
                fact = f"models.{name}.capabilities.{capability}"
                yield place, f"{name} is bound here, but {fact} says false; change one of the two"


def _models(settings: Settings) -> Iterator[tuple[str, str]]:
    for name, model in settings.models.items():
        provider = settings.providers.get(provider_of(name))
        if (model.path or model.repo) and not isinstance(provider, BuiltinProvider):
            yield f"models.{name}", "path and repo are for models of the builtin backend only"


def _aliases(settings: Settings) -> Iterator[tuple[str, str]]:
    for name, alias in settings.aliases.items():
        place = f"aliases.{name}"
        if alias.to in settings.aliases:
            yield place, f"{alias.to} is an alias itself; aliases do not chain"
        elif alias.to in _RESERVED or find_builtin(alias.to) is not None:
            continue
        elif "/" not in alias.to:
            yield place, f"{alias.to} is neither auto, nor a capability, nor provider/model"
        elif provider_of(alias.to) not in settings.providers:
            yield place, f"{alias.to}: {_unknown_provider(alias.to, settings.providers)}"


def _lanes(settings: Settings) -> Iterator[tuple[str, str]]:
    for name in settings.lanes:
        if isinstance(settings.providers.get(name), BuiltinProvider):
            yield f"lanes.{name}", "the builtin backend queues by itself; see builtin.queue"


def _limits(settings: Settings) -> Iterator[tuple[str, str]]:
    limits = settings.limits
    if limits.buffered_mb < limits.body_mb:
        too_little = f"{limits.buffered_mb} is less than limits.body_mb, {limits.body_mb}"
        yield "limits.buffered_mb", f"{too_little}: the largest request would never find room"


def _providers(settings: Settings) -> Iterator[tuple[str, str]]:
    taken = {settings.server.port: "server.port"} if settings.server.port else {}
    builtin = [
        name for name, each in settings.providers.items() if isinstance(each, BuiltinProvider)
    ]
    for name in builtin[1:]:
        yield f"providers.{name}", f"one builtin backend is all there is; {builtin[0]} is it"
    for name, provider in settings.providers.items():
        if name in _RESERVED:
            yield f"providers.{name}", "this name means something else in a request's `model`"
        if isinstance(provider, BuiltinProvider) and provider.port:
            place = f"providers.{name}.port"
            if (other := taken.setdefault(provider.port, place)) != place:
                yield place, f"{provider.port} is {other} already"
        yield from _ways(name, provider)
        yield from _prices(name, provider, settings)


def _ways(name: str, provider: Provider) -> Iterator[tuple[str, str]]:
    """Yield what is said of the way to a provider that has no such way."""
    if isinstance(provider, BuiltinProvider | ProcessProvider):
        for key in ("proxy", "ca_file"):
            if getattr(provider, key) is not None:
                yield f"providers.{name}.{key}", "a process on this machine is reached directly"
    elif (
        provider.base_url is not None
        and provider.ca_file is not None
        and not any(
            (url or "").startswith("https://") for url in (provider.base_url, provider.proxy)
        )
    ):
        place = f"providers.{name}.ca_file"
        yield place, f"there is no TLS on the way to {provider.base_url}; https:// is meant?"


def _prices(name: str, provider: Provider, settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield what keeps a limit of cost from being kept: models without a price."""
    if provider.spend_limit.cost is None:
        return
    bound = {model for binding in settings.capabilities.values() for model in binding.models}
    for model in sorted(bound.union(settings.models)):
        told = settings.models.get(model)
        if provider_of(model) == name and (told is None or told.price is None):
            place = f"providers.{name}.spend_limit.cost"
            yield place, f"models.{model} has no price, so that its cost cannot be known"


def provider_of(model: str) -> str:
    """Return the provider's part of a `provider/model` name."""
    return model.partition("/")[0]


def _unknown_provider(model: str, known: Iterable[str]) -> str:
    return f"the provider {provider_of(model)!r} is unknown{_among(known)}"


def _among(names: Iterable[str]) -> str:
    return f" (known: {', '.join(names) or 'none'})"
