"""What this version accepts in a file but cannot do yet.

A setting that restricts (what may leave the machine, who may use memory)
must never be ignored: it stops the start. A setting that only permits or tunes is told once.
"""

from collections.abc import Iterator
from typing import Final

from router.keys import KeyReference
from router.settings.providers import ProcessProvider
from router.settings.section import Section
from router.settings.tree import Settings

# Accepted, and so far only accepted; `*` stands for the user's names. config/router.yaml says so
# at each of them.
WITHOUT_EFFECT: Final = (
    "database_url",
    "models.*.repo",
    "downloads.source",
    "downloads.token",
    "log.prompts",
    "log.file_mb",
)


def refuse_unbuilt(settings: Settings) -> list[str]:
    """Return one line for each restricting setting that this version cannot keep; [] to start."""
    return [f"{settings.source}: {line}" for line in _refusals(settings)]


def _refusals(settings: Settings) -> Iterator[str]:
    yield from _bindings(settings)
    for place, value in (
        ("downloads.proxy", settings.downloads.proxy),
        ("processes.memory_budget_mb", settings.processes.memory_budget_mb),
    ):
        if value is not None:
            yield f"{place}: not built yet, and never to be ignored; take it out"


def _bindings(settings: Settings) -> Iterator[str]:
    for capability, binding in settings.capabilities.items():
        for model in binding.models:
            provider = settings.providers[model.partition("/")[0]]
            if isinstance(provider, ProcessProvider):
                yield (
                    f"capabilities.{capability}: {model} cannot be served: providers of kind "
                    f"{provider.kind} are not built yet"
                )


def key_references(settings: Settings) -> Iterator[tuple[str, KeyReference]]:
    """Yield every key reference of the tree with the place where it stands."""
    for api_key in settings.server.api_keys:
        yield "server.api_keys", api_key.reference
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
        if isinstance(provider, ProcessProvider):
            yield f"providers.{name}: providers of kind {provider.kind} are not built yet"
    for pattern in WITHOUT_EFFECT:
        for place in _given(settings, tuple(pattern.split(".")), ""):
            yield f"{place}: not built yet, so this has no effect"


def _given(section: Section, path: tuple[str, ...], place: str) -> Iterator[str]:
    """Yield the places under a section where a value differs from its default."""
    key, rest = path[0], path[1:]
    value, here = getattr(section, key), f"{place}{key}"
    if not rest:
        if value != type(section).model_fields[key].get_default(call_default_factory=True):
            yield here
    elif isinstance(value, Section):
        yield from _given(value, rest, f"{here}.")
    else:
        for name, inner in value.items():
            yield from _given(inner, rest[1:], f"{here}.{name}.")
