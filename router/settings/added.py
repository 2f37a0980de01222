"""Providers that are added while the router runs: the same types and rules as in the file."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from router.settings.contradictions import contradictions
from router.settings.faults import told_faults
from router.settings.providers import LiteLLMProvider, OllamaProvider, OpenAIProvider, Provider
from router.settings.tree import Settings

_KINDS = "ollama, openai or litellm"


class ProviderError(Exception):
    """A provider cannot be as it is told: `param` is the key at fault, the text what is due."""

    def __init__(self, param: str, text: str) -> None:
        super().__init__(text)
        self.param = param


def read_provider(name: str, told: Mapping[str, Any], settings: Settings) -> Provider:
    """Return the provider that `told` describes by the file's own keys; raises ProviderError."""
    if told.get("kind") == "builtin":
        raise ProviderError("kind", "the builtin backend stands in router.yaml and nowhere else")
    try:
        tree = Settings.model_validate({"providers": {name: dict(told)}})
    except ValidationError as error:
        path, text = next(told_faults(error, Settings))
        # What follows `providers` and the name; nothing does where no kind fits.
        inner = ".".join(path[2:])
        raise ProviderError(inner or "kind", text if inner else f"{_KINDS} is due here") from error
    provider = tree.providers[name]
    if not isinstance(provider, LiteLLMProvider | OllamaProvider | OpenAIProvider):
        raise ProviderError("kind", f"{provider.kind} is not built yet; use {_KINDS}")
    place = f"providers.{name}"
    for at, text in contradictions(with_added(settings, {name: provider})):
        if at == place or at.startswith(place + "."):
            raise ProviderError(at.removeprefix(place).removeprefix(".") or "name", text)
    return provider


def with_added(settings: Settings, added: Mapping[str, Provider]) -> Settings:
    """Return the settings with these providers too; a name that the file has stays the file's."""
    more = {name: provider for name, provider in added.items() if name not in settings.providers}
    return settings.model_copy(update={"providers": {**settings.providers, **more}})
