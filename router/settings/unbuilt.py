"""What this version accepts in a file but cannot do yet.

A setting that restricts (what may leave the machine, who may use memory, how an answer is checked)
must never be ignored: it stops the start. A setting that only permits or tunes is told once.
"""

from collections.abc import Iterator

from router.keys import KeyReference, KeySource
from router.settings.tree import (
    BuiltinProvider,
    LiteLLMProvider,
    ProcessProvider,
    Settings,
)


def refuse_unbuilt(settings: Settings) -> list[str]:
    """Return one line for each restricting setting that this version cannot keep; [] to start."""
    return [f"{settings.source}: {line}" for line in _refusals(settings)]


def _refusals(settings: Settings) -> Iterator[str]:
    yield from _bindings(settings)
    for place, value in _network_and_memory(settings):
        if value is not None:
            yield f"{place}: not built yet, and never to be ignored; take it out"
    for place, reference in key_references(settings):
        if reference.source is KeySource.KEYRING:
            yield f"{place}: the keyring is not supported yet; use {{env: NAME}} or {{file: PATH}}"


def _bindings(settings: Settings) -> Iterator[str]:
    for capability, binding in settings.capabilities.items():
        if binding.enforce != "off":
            yield f"capabilities.{capability}.enforce: {binding.enforce} is not built yet; use off"
        for model in binding.models:
            provider = settings.providers[model.partition("/")[0]]
            if isinstance(provider, LiteLLMProvider | ProcessProvider):
                yield (
                    f"capabilities.{capability}: {model} cannot be served: providers of kind "
                    f"{provider.kind} are not built yet"
                )


def _network_and_memory(settings: Settings) -> Iterator[tuple[str, object]]:
    for name, provider in settings.providers.items():
        yield f"providers.{name}.proxy", provider.proxy
        yield f"providers.{name}.ca_file", provider.ca_file
    yield "downloads.proxy", settings.downloads.proxy
    yield "processes.memory_budget_mb", settings.processes.memory_budget_mb


def key_references(settings: Settings) -> Iterator[tuple[str, KeyReference]]:
    """Yield every key reference of the tree with the place where it stands."""
    for reference in settings.server.api_keys:
        yield "server.api_keys", reference
    if settings.server.admin_key is not None:
        yield "server.admin_key", settings.server.admin_key
    for name, provider in settings.providers.items():
        if (key := getattr(provider, "api_key", None)) is not None:
            yield f"providers.{name}.api_key", key
    if settings.downloads.token is not None:
        yield "downloads.token", settings.downloads.token


def without_effect(settings: Settings) -> Iterator[str]:
    """Yield one line for each permissive setting that was given and does nothing yet."""
    for name, provider in settings.providers.items():
        if isinstance(provider, LiteLLMProvider | ProcessProvider):
            yield f"providers.{name}: providers of kind {provider.kind} are not built yet"
        if isinstance(provider, BuiltinProvider) and provider.start == "on_demand":
            yield f"providers.{name}.start: on_demand is not built yet; it starts as eager does"
    for name, model in settings.models.items():
        if model.repo is not None:
            yield f"models.{name}.repo: downloading a repository by name is not built yet"
    for capability, binding in settings.capabilities.items():
        if binding.while_starting != "wait":
            yield f"capabilities.{capability}.while_starting: fallback is not built yet; it waits"
    if settings.database_url is not None:
        yield "database_url: not built yet; assignments are kept in the data folder"
