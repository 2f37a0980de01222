"""From the file, the environment and the command line to one frozen `Settings`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from backends.wire import Priority
from router.keys import KeyReference, KeyReferenceError, KeySource, resolve
from router.settings import sources
from router.settings.contradictions import ahead_of_time, contradictions, provider_of
from router.settings.faults import settings_error
from router.settings.sources import PREFIX, Layers, Origin, SettingsError
from router.settings.tree import Server, Settings
from router.settings.unbuilt import key_references, without_effect

# Given in a file, these replace the packaged default's whole; every other section is a set of
# values, each with a default of its own.
_REPLACED_WHOLE: Final = ("providers", "models", "aliases", "capabilities")

# Read once, when the process begins: where it listens, who may come in, where its data lies.
FIXED: Final = ("server", "data_dir", "database_url")


def load(config: Path | None, overrides: Mapping[str, Any], environ: Mapping[str, str]) -> Settings:
    """Read the settings: command line over environment over file over default.

    `overrides` are nested as the tree is, None meaning "not given". Raises SettingsError with a
    text that is ready to print.
    """
    path = sources.find_file(config, environ)
    tree = sources.read_file(path)
    notices = _complete(tree, path)
    layers = Layers(tree, str(path))
    layers.add_environment(environ)
    layers.add_options(overrides)
    try:
        settings = Settings.model_validate(layers.tree)
    except ValidationError as exc:
        raise settings_error(exc, layers, Settings) from exc
    if faults := [layers.fault(*fault) for fault in contradictions(settings)]:
        raise SettingsError(faults)
    settings._source = path  # noqa: SLF001 made here, and only here
    told = (*notices, *ahead_of_time(settings), *without_effect(settings))
    settings._notices = told  # noqa: SLF001 likewise
    settings._origin = Origin(config, overrides, environ)  # noqa: SLF001 likewise
    if settings.data_dir is None:
        settings._data_folder = sources.data_folder(environ)  # noqa: SLF001 likewise
    return settings


def load_server(
    config: Path | None, overrides: Mapping[str, Any], environ: Mapping[str, str]
) -> Server | None:
    """Read `server` alone, as `load` does, or None: where the file's other parts have faults.

    A router that runs goes on by what was in force before, and this tells where it is.
    """
    try:
        path = sources.find_file(config, environ)
        layers = Layers(sources.read_file(path), str(path))
        layers.add_environment(environ)
        layers.add_options(overrides)
        return Server.model_validate(layers.tree.get("server") or {})
    except (SettingsError, ValidationError):
        return None


def reload(settings: Settings) -> Settings:
    """Read the settings anew, from wherever these came; raises SettingsError as `load` does."""
    origin = settings.origin
    return load(origin.config, origin.overrides, origin.environ)


def as_started(told: Settings, running: Settings) -> Settings:
    """Return what was read with those parts of the running settings that only a start changes."""
    settings = told.model_copy(update={name: getattr(running, name) for name in FIXED})
    settings._data_folder = running._data_folder  # noqa: SLF001 of one class, and made here
    return settings


def _complete(tree: dict[str, Any], path: Path) -> list[str]:
    """Give a user's file the sections that it leaves out; return what could not be given."""
    default = sources.packaged_file()
    # An empty section is what is left when all its lines are commented out.
    for name in [name for name, value in tree.items() if value is None]:
        if name in _REPLACED_WHOLE:
            raise SettingsError([f"{path}: {name}: empty; write {{}} for none, or take it out"])
        del tree[name]
    if path == default:
        return []
    given = set(tree)
    for name, value in sources.read_file(default).items():
        tree.setdefault(name, value)
    if "capabilities" in given or not isinstance(tree["providers"], dict):
        return []
    return list(_drop_orphans(tree["capabilities"], set(tree["providers"])))


def _drop_orphans(bindings: dict[str, list[str]], providers: set[str]) -> Iterator[str]:
    # The user's providers meet the default's bindings: what nobody serves is not bound.
    for capability, models in list(bindings.items()):
        if not {provider_of(model) for model in models} <= providers:
            del bindings[capability]
            yield (
                f"capabilities.{capability}: the default, {', '.join(models)}, is left out: "
                "providers does not name its provider"
            )


@dataclass(frozen=True, slots=True, repr=False)
class AccessKeys:
    """The keys that callers must show; no `repr`, so that none ends in a log.

    `api_keys` holds with each key the priority of who shows it and names none.
    """

    api_keys: Mapping[str, Priority | None]
    admin_key: str | None


def access_keys(settings: Settings, environ: Mapping[str, str]) -> AccessKeys:
    """Read the keys of `server`; SettingsError where one is named but not there.

    A door whose key is missing stays shut: the router does not start without it.
    """
    faults: list[str] = []

    def read(place: str, reference: KeyReference) -> str:
        try:
            key = resolve(reference, environ)
        except KeyReferenceError as exc:
            faults.append(f"{settings.source}: {place}: {exc}")
            return ""
        if key is None:
            faults.append(f"{settings.source}: {place}: {reference} names a key that is not there")
        return key or ""

    api_keys = {
        read("server.api_keys", key.reference): key.priority for key in settings.server.api_keys
    }
    admin = settings.server.admin_key
    admin_key = read("server.admin_key", admin) if admin is not None else None
    if faults:
        raise SettingsError(faults)
    return AccessKeys(api_keys, admin_key)


def child_environment(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """Return what a local process may see: everything but our own variables and all our keys."""
    secrets = {
        reference.name
        for _, reference in key_references(settings)
        if reference.source is KeySource.ENV
    }
    return {
        name: value
        for name, value in environ.items()
        if name not in secrets and not name.startswith(PREFIX)
    }
