"""The providers as a person sees them, and those that are added, edited and removed at run time.

What stands in the file is read only here. A key that is given as text goes to the keyring, else
into a file of its own; only its reference is stored, and nothing shows it.
"""

import asyncio
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from router.catalog import Locality
from router.configuration import Configuration
from router.errors import Refused, SignalboxError
from router.inquiry import Inquiry, inquire
from router.keys import KeyReference, KeyReferenceError, KeySource, check_key, forget, keep
from router.overrides import StoreError
from router.reach import Reach
from router.settings import SettingsError
from router.settings.added import ProviderError, read_provider
from router.settings.providers import Provider
from router.stored_providers import StoredProvider

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# What decides where requests go, and with them a key.
_WAY = ("base_url", "proxy", "ca_file", "litellm_provider", "options")


class ProviderStore(Protocol):
    """Where added providers are kept; its calls block and run in a thread."""

    def save_provider(self, name: str, provider: StoredProvider) -> None:
        """Store a provider in place of the one before; StoreError when that is not possible."""
        ...

    def delete_provider(self, name: str) -> None:
        """Forget a provider; StoreError when that is not possible."""
        ...


@dataclass(frozen=True, slots=True)
class ProviderRow:
    """One provider: how it is reached, on whose word, and whether it is in use.

    `headers` are names only. `state` is `ok`, `disabled`, or that of a breaker which is not closed
    (`open`, `half_open`), and `message` says why.
    """

    name: str
    kind: str
    base_url: str | None
    locality: str
    source: str
    since: str | None
    state: str
    message: str | None
    proxy: str | None
    ca_file: str | None
    headers: tuple[str, ...]
    timeouts: Mapping[str, float]
    has_key: bool


class Providers:
    """The providers of one running router; `reaches` holds the way to each that is not disabled."""

    def __init__(
        self,
        configuration: Configuration,
        reaches: Mapping[str, Reach],
        store: ProviderStore,
        keys: Path,
    ) -> None:
        self._configuration = configuration
        self._reaches = reaches
        self._store = store
        self._keys = keys

    def __repr__(self) -> str:
        return f"<Providers stored={list(self._configuration.stored)}>"

    def rows(self) -> list[ProviderRow]:
        """Return every provider, the file's first."""
        names = [*self._configuration.settings.providers, *self._configuration.stored]
        return [self.row(name) for name in dict.fromkeys(names)]

    def row(self, name: str) -> ProviderRow:
        """Return one provider; Refused `not_found` when there is none of this name."""
        row, reach = self._row(name), self._reaches.get(name)
        if reach is None or reach.breaker.why is None:
            return row
        return replace(row, state=str(reach.breaker.state), message=reach.breaker.why)

    def _row(self, name: str) -> ProviderRow:
        configuration = self._configuration
        in_file = configuration.settings.providers.get(name)
        stored = configuration.stored.get(name)
        why = configuration.disabled.get(name)
        if in_file is not None:
            if stored is not None and why is None:
                why = f"one of this name is stored too, and not used: signalbox providers rm {name}"
            disabled = name in configuration.disabled
            return _row(name, in_file, source="file", disabled=disabled, message=why)
        if stored is None:
            raise Refused("not_found", self._unknown(name))
        known = configuration.map.ground.settings.providers.get(name)
        if known is None:
            return _broken_row(name, stored, why)
        disabled = name in configuration.disabled
        since = stored.since
        return _row(name, known, source="stored", disabled=disabled, message=why, since=since)

    async def add(self, name: str, told: Mapping[str, Any]) -> ProviderRow:
        """Add a provider, told by the file's keys; raises SignalboxError when it cannot be."""
        if not _NAME.fullmatch(name):
            raise Refused(
                "invalid_request",
                "A provider's name is made of letters, digits, dots, dashes and underscores, "
                "64 at most.",
                param="name",
            )
        async with self._configuration.map.writing:
            self._check_not_in_file(name)
            if name in self._configuration.stored:
                raise Refused(
                    "conflict", f"There is a provider {name} already; edit it, or remove it first."
                )
            await self._put(name, *_without_key(told))
            return self.row(name)

    async def edit(self, name: str, changes: Mapping[str, Any]) -> ProviderRow:
        """Change the keys that are given, null meaning the default; raises SignalboxError."""
        async with self._configuration.map.writing:
            before = self._own(name).settings
            # Only what is new is looked through for keys: a stored reference may well name a file.
            rest, key = _without_key(changes)
            told = {**before, **rest}
            self._check_way(name, before, told, changes)
            await self._put(name, told, key)
            return self.row(name)

    async def remove(self, name: str) -> list[str]:
        """Remove a provider and its key; return the capabilities that still name it, and dangle."""
        async with self._configuration.map.writing:
            # A stored one that the file's hides can go; the file's own cannot.
            if name not in self._configuration.stored:
                self._own(name)
            rest = {key: value for key, value in self._configuration.stored.items() if key != name}
            await self._restock(rest, partial(self._store.delete_provider, name))
            rows = self._configuration.map.rows()
            return [
                row.capability
                for row in rows
                if any(model.partition("/")[0] == name for model in row.models)
            ]

    async def test(self, name: str) -> Inquiry:
        """Ask a provider for its list of models, once; no prompt is sent."""
        row = self.row(name)
        if row.state == "disabled":
            return Inquiry(name, ok=False, message=row.message or "it is disabled")
        catalog, reach = self._configuration.map.catalog, self._reaches[name]
        provider = catalog.providers[name]
        if catalog.local_only and provider.locality is Locality.REMOTE:
            raise Refused(
                "remote_not_allowed", f"{name} is remote, and local_only is set: it is not asked."
            )
        with reach.use:
            return await inquire(provider, reach)

    def _own(self, name: str) -> StoredProvider:
        """Return a stored provider, to be changed; Refused where it is not ours to change."""
        self._check_not_in_file(name)
        stored = self._configuration.stored.get(name)
        if stored is None:
            raise Refused("not_found", self._unknown(name))
        return stored

    def _check_not_in_file(self, name: str) -> None:
        settings = self._configuration.settings
        if name in settings.providers:
            raise Refused(
                "conflict",
                f"{name} stands in {settings.source}; change it there, it is read again.",
            )

    def _unknown(self, name: str) -> str:
        names = [row.name for row in self.rows()]
        return f"There is no provider {name[:100]!r}: {', '.join(names) or 'none at all'}."

    def _check_way(
        self,
        name: str,
        before: Mapping[str, Any],
        told: Mapping[str, Any],
        changes: Mapping[str, Any],
    ) -> None:
        """Keep a key from going where it was not given for."""
        if all(before.get(key) == told.get(key) for key in _WAY):
            return
        for secret in ("api_key", "headers"):
            if before.get(secret) and secret not in changes:
                raise Refused(
                    "invalid_request",
                    f"{name} would be reached another way: give its {secret} again, or null, so "
                    "that nothing secret goes where it was not meant to.",
                    param=secret,
                )

    async def _put(self, name: str, told: Mapping[str, Any], key: str | None) -> None:
        """Store a provider and let it take effect; its new key is kept elsewhere first."""
        told = {each: value for each, value in told.items() if value is not None}
        try:
            read_provider(name, told, self._configuration.settings)
        except ProviderError as error:
            raise _refused(error) from None
        kept: KeyReference | None = None
        if key is not None:
            kept = await _kept(partial(keep, key, name, self._keys))
            told = {**told, "api_key": {str(kept.source): kept.name}}
        provider = StoredProvider(told, datetime.now(UTC).isoformat(timespec="seconds"))
        stored = {**self._configuration.stored, name: provider}
        try:
            await self._restock(stored, partial(self._store.save_provider, name, provider), name)
        except SignalboxError:
            # Nothing else: after a cancellation the row that refers to the key may be there.
            if kept is not None:
                await asyncio.to_thread(forget, kept)
            raise

    async def _restock(
        self, stored: Mapping[str, StoredProvider], write: Callable[[], None], new: str = ""
    ) -> None:
        before = self._configuration.stored
        try:
            await self._configuration.restock(stored, write, new)
        except StoreError as error:
            raise SignalboxError("store_unavailable", str(error)) from error
        except ProviderError as error:
            raise _refused(error) from None
        except SettingsError as error:
            raise Refused("conflict", str(error)) from error
        await asyncio.to_thread(self._tidy, before, stored)

    def _tidy(
        self, before: Mapping[str, StoredProvider], now: Mapping[str, StoredProvider]
    ) -> None:
        """Delete the keys that nothing refers to any more; a router that was killed left some."""
        in_use = {reference for _, reference in _references(now)}
        for name, reference in _references(before):
            if reference not in in_use and _is_ours(name, reference):
                forget(reference)
        for path in self._keys.glob("*.key"):
            reference = KeyReference(KeySource.FILE, str(path))
            if reference not in in_use:
                forget(reference)


def _refused(error: ProviderError) -> Refused:
    return Refused("invalid_request", f"{error.param}: {error}.", param=error.param)


def _references(stored: Mapping[str, StoredProvider]) -> list[tuple[str, KeyReference]]:
    found = []
    for name, provider in stored.items():
        with suppress(ValueError):
            found.append((name, KeyReference.parse(provider.settings.get("api_key"))))
    return found


def _is_ours(name: str, reference: KeyReference) -> bool:
    """Tell whether we kept a key, and not somebody else who only let us use it."""
    made_here = re.fullmatch(re.escape(name) + "-[0-9a-f]{8}", reference.name)
    return reference.source is KeySource.KEYRING and made_here is not None


def _without_key(told: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    """Return what is told without a key that stands in it as text, and that key."""
    rest = dict(told)
    key = rest.get("api_key")
    if isinstance(key, str):
        del rest["api_key"]
        try:
            return rest, check_key(key)
        except ValueError as error:
            raise Refused("invalid_request", f"api_key: {error}", param="api_key") from None
    if isinstance(key, Mapping) and set(key) & {KeySource.ENV, KeySource.FILE}:
        # Through a door that may stand open to this machine's users, it would hand our variables
        # and files to whatever address is named beside it.
        raise Refused(
            "invalid_request",
            "api_key: variables and files are named in router.yaml only; give the key itself, or "
            "{keyring: NAME}.",
            param="api_key",
        )
    return rest, None


async def _kept(keeping: Callable[[], KeyReference]) -> KeyReference:
    try:
        return await asyncio.to_thread(keeping)
    except KeyReferenceError as error:
        raise SignalboxError("store_unavailable", f"The key could not be kept: {error}.") from error


def _row(
    name: str,
    told: Provider,
    *,
    source: str,
    disabled: bool,
    message: str | None,
    since: str | None = None,
) -> ProviderRow:
    timeouts = told.timeouts.model_dump(exclude_none=True)
    return ProviderRow(
        name=name,
        kind=told.kind,
        base_url=getattr(told, "base_url", None),
        locality="local" if told.is_local else "remote",
        source=source,
        since=since,
        state="disabled" if disabled else "ok",
        message=message,
        proxy=told.proxy,
        ca_file=None if told.ca_file is None else str(told.ca_file),
        headers=tuple(told.headers),
        timeouts=timeouts,
        has_key=getattr(told, "api_key", None) is not None,
    )


def _broken_row(name: str, stored: StoredProvider, why: str | None) -> ProviderRow:
    """Return the row of one that cannot be read as a provider."""
    told = stored.settings
    return ProviderRow(
        name=name,
        kind=str(told.get("kind")),
        base_url=str(told["base_url"]) if "base_url" in told else None,
        locality=str(Locality.REMOTE),
        source="stored",
        since=stored.since,
        state="disabled",
        message=why,
        proxy=None,
        ca_file=None,
        headers=(),
        timeouts={},
        has_key="api_key" in told,
    )
