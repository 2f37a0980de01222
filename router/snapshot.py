"""The Catalog of a moment: settings, stored assignments and what lies on disk, put together."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from backends.catalogue import BUILTIN_MODELS, ModelFolders
from router.capabilities import Capability
from router.catalog import Binding, Catalog, Fact, Kind, Locality, Model, Provider, Source
from router.keys import KeyReferenceError, resolve
from router.learned import NOTHING, Learned
from router.model_folder import Described, described
from router.overrides import Override
from router.settings import Settings
from router.settings.sources import packaged_file
from router.settings.tree import BuiltinProvider, OllamaProvider, OpenAIProvider
from router.settings.tree import Provider as ProviderSettings

log = logging.getLogger(__name__)

# What the catalogue's models are asked about; of other needs nothing is known.
_LEVERS = ("vision", "tool_use", "structured_output", "text")


@dataclass(frozen=True, slots=True)
class Ground:
    """What stays the same while the router runs: settings, providers, and where models lie.

    `bindings` are those of the file that can be kept here.
    """

    settings: Settings
    providers: Mapping[str, Provider]
    bindings: Mapping[Capability, Binding]
    folders: ModelFolders

    @property
    def builtin(self) -> str | None:
        """The name of the builtin provider, or None when there is none."""
        kinds = ((provider.name, provider.kind) for provider in self.providers.values())
        return next((name for name, kind in kinds if kind is Kind.BUILTIN), None)


def survey(
    settings: Settings,
    environ: Mapping[str, str],
    folders: ModelFolders,
    *,
    builtin_token: str | None,
    has_mlx: bool,
) -> Ground:
    """Return the ground that every Catalog stands on.

    A provider whose key is missing is left out with a warning. Without MLX the packaged default's
    bindings to the builtin provider are left out too; a binding in the user's own file is kept,
    and says by its state why it does not work.
    """
    providers: dict[str, Provider] = {}
    for name, provider in settings.providers.items():
        try:
            made = _provider(name, provider, environ, builtin_token)
        except KeyReferenceError as error:
            log.warning("provider %s is left out: %s", name, error)
            continue
        if made is not None:
            providers[name] = made
    return Ground(settings, providers, dict(_file_bindings(settings, has_mlx=has_mlx)), folders)


def _provider(
    name: str, provider: ProviderSettings, environ: Mapping[str, str], builtin_token: str | None
) -> Provider | None:
    locality = Locality.LOCAL if provider.is_local else Locality.REMOTE
    headers = tuple((key.lower(), value) for key, value in provider.headers.items())
    if isinstance(provider, BuiltinProvider):
        base_url = f"http://127.0.0.1:{provider.port}/v1"
        return Provider(name, Kind.BUILTIN, base_url, locality, builtin_token, headers)
    if not isinstance(provider, OllamaProvider | OpenAIProvider):
        return None
    key = None
    if provider.api_key is not None:
        key = resolve(provider.api_key, environ)
        if key is None:
            raise KeyReferenceError(f"{provider.api_key} names a key that is not there")
    if isinstance(provider, OllamaProvider):
        return Provider(name, Kind.OLLAMA, f"{provider.base_url}/v1", locality, key, headers)
    return Provider(name, Kind.OPENAI, provider.base_url, locality, key, headers)


def _file_bindings(settings: Settings, *, has_mlx: bool) -> Iterator[tuple[Capability, Binding]]:
    for name, binding in settings.capabilities.items():
        capability = Capability(name)
        models = binding.models
        if settings.source == packaged_file() and not has_mlx:
            models = tuple(
                model
                for model in models
                if not isinstance(settings.providers[model.partition("/")[0]], BuiltinProvider)
            )
        yield (
            capability,
            Binding(
                capability,
                models,
                allow_remote_fallback=binding.allow_remote_fallback,
                local_only=binding.local_only,
            ),
        )


def build_catalog(
    ground: Ground, overrides: Mapping[Capability, Override], learned: Learned = NOTHING
) -> Catalog:
    """Return the snapshot for these stored assignments; looks on disk for the builtin models.

    What the user declared stands before what was merely learned of, so that it is found first.
    """
    bindings = dict(ground.bindings)
    for capability, override in overrides.items():
        in_file = bindings.get(capability, Binding(capability, ()))
        bindings[capability] = Binding(
            capability,
            override.models,
            allow_remote_fallback=in_file.allow_remote_fallback,
            local_only=in_file.local_only,
        )
    models: dict[str, Model] = {}
    for name in ground.settings.models:
        _add(models, name, ground)
    for builtin in BUILTIN_MODELS if ground.builtin else ():
        _add(models, f"{ground.builtin}/{builtin.alias}", ground)
    for binding in bindings.values():
        for name in binding.models:
            _add(models, name, ground)
    for name, model in models.items():
        models[name] = learned.applied(model, ground.providers[model.provider])
    for model in learned.listed(ground.providers):
        models.setdefault(model.name, model)
    for name in learned.verdicts:
        # Somebody has tried it out, so it is there, whatever the lists say.
        provider, _, model_id = name.partition("/")
        if name not in models and provider in ground.providers and provider != ground.builtin:
            tried = Model(provider, model_id, listed=True)
            models[name] = learned.applied(tried, ground.providers[provider])
    return Catalog(
        providers=ground.providers,
        models=models,
        bindings={
            capability: binding
            for capability, binding in bindings.items()
            if binding.models or binding.local_only
        },
        aliases={name: alias.to for name, alias in ground.settings.aliases.items()},
        local_only=ground.settings.local_only,
    )


def _add(models: dict[str, Model], name: str, ground: Ground) -> None:
    """Add a model under its name, unless nobody here knows it: then it is dangling."""
    provider, _, model_id = name.partition("/")
    if name in models or provider not in ground.providers:
        return
    told = ground.settings.models.get(name)
    facts: dict[str, Fact] = {
        need: Fact(value, Source.USER)
        for need, value in (told.capabilities if told else {}).items()
    }
    context_length = told.context_length if told else None
    if provider != ground.builtin:
        models[name] = Model(provider, model_id, facts, context_length)
        return
    folder = ground.folders.find(model_id)
    known = next((m for m in BUILTIN_MODELS if model_id in {m.alias, m.repo}), None)
    if known is not None and model_id == known.repo:
        # One model, one name: the Hugging Face id is another name of the alias.
        _add(models, f"{provider}/{known.alias}", ground)
    elif known is not None:
        offered = {need: Fact(need in known.capabilities, Source.PROVIDER) for need in _LEVERS}
        models[name] = Model(
            provider,
            model_id,
            {**offered, **facts},
            context_length or known.context_length,
            present=folder is not None,
            other_names=(known.repo,),
        )
    elif told is not None or folder is not None:
        of_folder = described(folder) if folder is not None else Described()
        models[name] = Model(
            provider,
            model_id,
            {**of_folder.facts, **facts},
            context_length or of_folder.context_length,
            present=folder is not None,
        )
