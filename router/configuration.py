"""What the router runs by: the file's settings, and the providers added besides.

The one who changes either while requests run. A change is built whole beside what is in force, and
where that fails nothing has changed; then it takes the other's place between two requests.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from router.capability_map import CapabilityMap
from router.catalog import Catalog
from router.reaches import Reaches, Renewal
from router.settings import FIXED, Settings, SettingsError, as_started, refuse_unbuilt, reload
from router.settings.added import ProviderError, read_provider, with_added
from router.settings.differences import differences
from router.snapshot import Ground
from router.stored_providers import StoredProvider

log = logging.getLogger(__name__)

# Looks at settings and at what lies around, keys and folders; blocks, and runs in a thread.
Surveyor = Callable[[Settings], Ground]
Stored = Mapping[str, StoredProvider]


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What came of reading the file again.

    `changed` are the places that are in force in another way than before, `needs_restart` those
    where the file and the running router differ until the next start.
    """

    source: str
    changed: tuple[str, ...]
    needs_restart: tuple[str, ...]
    notices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Draft:
    """A configuration that is built and not in force."""

    settings: Settings
    stored: Stored
    ground: Ground
    renewal: Renewal


class Configuration:
    """Holds what is in force: `settings` is the file's part, `stored` the other one."""

    def __init__(
        self, started: Settings, stored: Stored, surveyor: Surveyor, reaches: Reaches
    ) -> None:
        self.settings = started
        self.stored = stored
        self._surveyor = surveyor
        self._reaches = reaches
        self._map: CapabilityMap | None = None
        self._apply: Callable[[Ground], None] | None = None
        # Why each provider is left out that is.
        self.disabled: Mapping[str, str] = {}
        # Why the file as it stands is not what is in force; none where it is.
        self.faults: tuple[str, ...] = ()
        self.needs_restart: tuple[str, ...] = ()

    def __repr__(self) -> str:
        state = "refused" if self.faults else "in force"
        return f"<Configuration {self.settings.source} {state} stored={list(self.stored)}>"

    async def begin(self) -> Ground:
        """Return the first ground, and build the way to each of its providers.

        Raises SettingsError when one of the file's cannot be reached as it is told.
        """
        merged, broken = _merged(self.settings, self.stored)
        ground = self._surveyor(merged)
        draft = await self._draft(self.settings, self.stored, ground, broken)
        self._reaches.adopt(draft.renewal)
        self._tell_disabled(draft.ground.disabled)
        return draft.ground

    def follow(self, the_map: CapabilityMap, apply: Callable[[Ground], None]) -> None:
        """Let the map follow each change from here on, and before it whatever `apply` renews."""
        self._map, self._apply = the_map, apply

    @property
    def map(self) -> CapabilityMap:
        """The map that follows."""
        if self._map is None:
            raise RuntimeError("nothing follows yet")
        return self._map

    async def reload(self) -> Reloaded:
        """Read the file again and make it true; SettingsError where it cannot be, and why."""
        async with self.map.writing:
            before = self.settings
            try:
                told = await asyncio.to_thread(_read, before)
                await self._change(as_started(told, before), self.stored)
            except SettingsError as error:
                if self.faults != error.lines:
                    log.error("the configuration stays as it was: %s", error)  # noqa: TRY400 no trace
                self.faults = error.lines
                raise
            waiting = (each for each in differences(before, told) if _top(each) in FIXED)
            self.faults, self.needs_restart = (), tuple(waiting)
            changed = tuple(differences(before, self.settings))
            reloaded = Reloaded(str(told.source), changed, self.needs_restart, told.notices)
        _tell(reloaded, is_news=changed or told.notices != before.notices)
        return reloaded

    async def restock(self, stored: Stored, write: Callable[[], None], new: str = "") -> None:
        """Make these the providers besides the file's; `write` stores the change and blocks.

        It is called when all else that can fail was tried, and before anything takes effect. The
        map's `writing` is held by the caller. Raises SettingsError, ProviderError when there is no
        way to the one named `new`, and what `write` does.
        """
        await self._change(self.settings, stored, write, new)

    async def _change(
        self,
        settings: Settings,
        stored: Stored,
        write: Callable[[], None] = lambda: None,
        new: str = "",
    ) -> None:
        merged, broken = _merged(settings, stored)
        ground = await asyncio.to_thread(self._surveyor, merged)
        draft = await self._draft(settings, stored, ground, broken)
        try:
            if new in draft.renewal.faults:
                raise ProviderError("ca_file", draft.renewal.faults[new])  # noqa: TRY301 undone below
            catalog = await self.map.drawn(ground=draft.ground)
            await asyncio.to_thread(write)
        except BaseException:
            self._reaches.discard(draft.renewal)
            raise
        self._adopt(draft, catalog)

    async def _draft(
        self, settings: Settings, stored: Stored, ground: Ground, broken: Mapping[str, str]
    ) -> _Draft:
        """Build the ways to the providers; one that was added and has none is left out."""
        renewal = await self._reaches.prepare(ground.providers, ground.settings)
        lines = [
            f"{settings.source}: providers.{name}.ca_file: {fault}"
            for name, fault in renewal.faults.items()
            if name in settings.providers
        ]
        if lines:
            self._reaches.discard(renewal)
            raise SettingsError(lines)
        there = {name: ground.providers[name] for name in renewal.reaches}
        no_way = {name: f"ca_file: {fault}" for name, fault in renewal.faults.items()}
        disabled = {**ground.disabled, **no_way, **broken}
        ground = replace(ground, providers=there, disabled=disabled)
        return _Draft(settings, stored, ground, renewal)

    def _adopt(self, draft: _Draft, catalog: Catalog) -> None:
        """Put a draft in force; nothing waits here, so that no request sees a part of it."""
        self.settings, self.stored = draft.settings, draft.stored
        self._reaches.adopt(draft.renewal)
        if self._apply is not None:
            self._apply(draft.ground)
        self.map.stand_on(draft.ground, catalog)
        self._tell_disabled(draft.ground.disabled)

    def _tell_disabled(self, disabled: Mapping[str, str]) -> None:
        before, self.disabled = self.disabled, disabled
        for name, why in disabled.items():
            if before.get(name) != why:
                log.warning("provider %s is left out: %s", name, why)


def _read(before: Settings) -> Settings:
    """Return the settings that the file holds now; SettingsError as at the start."""
    told = reload(before)
    if refusals := refuse_unbuilt(told):
        raise SettingsError(refusals)
    return told


def _merged(settings: Settings, stored: Stored) -> tuple[Settings, dict[str, str]]:
    """Return the settings with the stored providers, and why some of these are left out."""
    added, broken = {}, {}
    for name, provider in stored.items():
        if name in settings.providers:
            continue
        try:
            added[name] = read_provider(name, provider.settings, settings)
        except ProviderError as error:
            # Another version's, or at odds with the file of today.
            broken[name] = f"{error.param}: {error}"
    return with_added(settings, added), broken


def _top(place: str) -> str:
    return place.partition(".")[0]


def _tell(reloaded: Reloaded, *, is_news: object) -> None:
    log.info("configuration read again; changed: %s", ", ".join(reloaded.changed) or "nothing")
    for notice in reloaded.notices if is_news else ():
        log.warning("%s", notice)
    if reloaded.needs_restart:
        log.warning("changed, but it needs a restart: %s", ", ".join(reloaded.needs_restart))
