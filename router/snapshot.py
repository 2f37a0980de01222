"""The Catalog of a moment: settings, stored assignments and what lies on disk, put together."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from backends.catalogue import BUILTIN_MODELS, ModelFolders, find_builtin
from router.capabilities import Capability
from router.catalog import (
    Alias,
    Binding,
    Catalog,
    Fact,
    Kind,
    Locality,
    Model,
    Provider,
    Source,
    as_it_is,
)
from router.egress import Price, SpendLimit, Tariff
from router.keys import KeyReference, KeyReferenceError, resolve
from router.learned import NOTHING, Learned
from router.litellm_package import Installed, NoLiteLLM
from router.litellm_table import Table, cloud_of
from router.model_folder import Described, described
from router.overrides import Override
from router.settings import Settings
from router.settings.providers import (
    BuiltinProvider,
    LiteLLMProvider,
    OllamaProvider,
    ProcessProvider,
    SpendLimitSettings,
)
from router.settings.providers import Provider as ProviderSettings
from router.settings.sources import packaged_file

# What the catalogue's models are asked about; of other needs nothing is known.
_LEVERS = ("vision", "tool_use", "structured_output", "text")


@dataclass(frozen=True, slots=True)
class Ground:
    """What a Catalog stands on until the configuration changes: settings, providers, folders.

    `bindings` are those of the file that can be kept here; `disabled` says of each provider that
    is left out why it is. `table` is LiteLLM's where a provider may stand in it; `no_table` says
    why it is not there in that case.
    """

    settings: Settings
    providers: Mapping[str, Provider]
    bindings: Mapping[Capability, Binding]
    folders: ModelFolders
    disabled: Mapping[str, str] = field(default_factory=dict)
    table: Table | None = None
    no_table: str | None = None

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
    litellm: Installed | None = None,
) -> Ground:
    """Return the ground that every Catalog stands on.

    LiteLLM's table is read where a provider may stand in it. A provider whose key is missing is
    left out, and so is one that needs LiteLLM where that is not. Without MLX the packaged default's
    bindings to the builtin provider are left out too; a binding in the user's own file is kept,
    and says by its state why it does not work.
    """
    providers: dict[str, Provider] = {}
    disabled: dict[str, str] = {}
    litellm = litellm or Installed()
    for name, provider in settings.providers.items():
        try:
            if isinstance(provider, LiteLLMProvider):
                litellm.find()
            made = _provider(name, provider, environ, builtin_token)
        except (KeyReferenceError, NoLiteLLM) as error:
            disabled[name] = str(error)
            continue
        if made is None:
            disabled[name] = f"providers of kind {provider.kind} are not built yet"
        else:
            providers[name] = made
    bindings = dict(_file_bindings(settings, has_mlx=has_mlx))
    ground = Ground(settings, providers, bindings, folders, disabled)
    if all(provider.cloud is None for provider in providers.values()):
        return ground
    try:
        return replace(ground, table=litellm.table())
    except NoLiteLLM as why:
        return replace(ground, no_table=str(why))


def _provider(
    name: str, provider: ProviderSettings, environ: Mapping[str, str], builtin_token: str | None
) -> Provider | None:
    locality = Locality.LOCAL if provider.is_local else Locality.REMOTE
    headers = tuple((key.lower(), value) for key, value in provider.headers.items())
    limit = provider.spend_limit
    # Whether an Ollama has cut a prompt, its tokens alone tell.
    asks_usage = (
        limit.tokens is not None or limit.cost is not None or isinstance(provider, OllamaProvider)
    )
    if isinstance(provider, BuiltinProvider):
        base_url = f"http://127.0.0.1:{provider.port}/v1"
        return Provider(name, Kind.BUILTIN, base_url, locality, builtin_token, headers)
    if isinstance(provider, ProcessProvider):
        return None
    key = _key(provider.api_key, environ)
    if isinstance(provider, LiteLLMProvider):
        return Provider(
            name,
            Kind.LITELLM,
            provider.base_url or "",
            locality,
            key,
            headers,
            asks_usage=asks_usage,
            cloud=provider.litellm_provider,
        )
    dialects, shims = frozenset(provider.dialects), frozenset(provider.shims)
    if isinstance(provider, OllamaProvider):
        url, key_header, kind = f"{provider.base_url}/v1", "authorization", Kind.OLLAMA
    else:
        url, key_header, kind = provider.base_url, provider.key_header, Kind.OPENAI
    # Whoever is asked through a relay is not said to be that cloud.
    cloud = cloud_of(urlsplit(url).hostname or "") if kind is Kind.OPENAI else None
    return Provider(
        name, kind, url, locality, key, headers, dialects, key_header, asks_usage, cloud, shims
    )


def _key(reference: KeyReference | None, environ: Mapping[str, str]) -> str | None:
    """Return the key that a reference names; KeyReferenceError where it is not there."""
    if reference is None:
        return None
    key = resolve(reference, environ)
    if key is None:
        raise KeyReferenceError(f"{reference} names a key that is not there")
    return key


def tariff_of(settings: Settings) -> Tariff:
    """Return what each provider may get in a day, and what the models cost."""
    limits = {
        name: SpendLimit(limit.requests, limit.tokens, limit.cost)
        for name, provider in settings.providers.items()
        if (limit := provider.spend_limit) != SpendLimitSettings()
    }
    prices = {
        name: Price(model.price.prompt, model.price.completion)
        for name, model in settings.models.items()
        if model.price is not None
    }
    return Tariff(limits, prices)


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
                next_while_starting=binding.while_starting == "next",
                enforce=binding.enforce,
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
        bindings[capability] = replace(in_file, models=override.models)
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
    filled = as_it_is if ground.table is None else ground.table.fill
    return Catalog(
        providers=ground.providers,
        models={
            name: filled(model, ground.providers[model.provider]) for name, model in models.items()
        },
        bindings={
            capability: binding
            for capability, binding in bindings.items()
            if binding.models or binding.local_only
        },
        aliases={
            name: Alias(alias.to, alias.priority) for name, alias in ground.settings.aliases.items()
        },
        local_only=ground.settings.local_only,
        left_out={
            name: Locality.LOCAL if ground.settings.providers[name].is_local else Locality.REMOTE
            for name in ground.disabled
            if name in ground.settings.providers
        },
        described=filled,
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
    known = find_builtin(model_id)
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
