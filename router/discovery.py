"""Asks providers for their models, beside all requests: never before listening, never for a prompt.

A provider is asked the way that requests go to it: through its proxy, with its key, by its own
certificate authority. Of a remote one nothing but its list is asked for.
"""

import asyncio
import logging
import math
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import UTC, datetime

import msgspec

from router.capability_map import CapabilityMap
from router.catalog import Kind, Locality, Provider, locality_of
from router.errors import RouteFailed
from router.learned import Listing
from router.metadata import (
    MAX_LIST_BYTES,
    Shown,
    Tag,
    ollama_list,
    ollama_show,
    ollama_tags,
    openai_list,
)
from router.question import answered, question
from router.reach import Reach

log = logging.getLogger(__name__)

_LIST_S = 20.0
_SHOW_S = 10.0
# All models of one Ollama; those of which nothing was heard by then are asked about the next time.
_ALL_SHOWN_S = 30.0
_SHOW_BYTES = 8_000_000
# Longer than this, decoding would be felt by the requests beside it.
_AT_ONCE_BYTES = 100_000
_OK = 200
# What is asked about one by one, and how many at a time: a laptop's Ollama has other work.
_MAX_SHOWN = 500
_SHOWN_AT_ONCE = 4
# How long a request waits to hear whether its model is local: one short list on this machine.
_SETTLE_S = 3.0
# Requests that need an answer which is not to be had must not hammer the provider.
_LEAST_BETWEEN_S = 1.0
# How soon a provider is asked again that did not answer, or has not told all that routing needs.
_AGAIN_S = 30.0


class DiscoveryFailed(Exception):
    """A provider did not tell what models it has; the text says why."""


class Discovery:
    """Keeps the map informed of what providers list; `begin` and `aclose` are its life.

    `reaches` holds every provider by its name.
    """

    def __init__(self, the_map: CapabilityMap, reaches: Mapping[str, Reach]) -> None:
        self._map = the_map
        self._reaches = reaches
        # Who is interested in more than what routing needs: a person has come to look.
        self._watched = False
        self._wake = asyncio.Event()
        # Who was asked, as it was then, and when.
        self._asked: dict[str, tuple[Provider, float]] = {}
        # Who was asked and has not answered with a list, and what was told of it.
        self._silent: dict[str, str] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._watch: asyncio.Task[None] | None = None
        self._shown: dict[str, dict[str, Shown]] = {}

    def __repr__(self) -> str:
        return f"<Discovery asking={list(self._asking)} watched={self._watched}>"

    def begin(self) -> None:
        """Begin to ask in the background for what routing must know."""
        self._loop = asyncio.get_running_loop()
        # Owned here: ended and awaited in `aclose`.
        self._watch = asyncio.create_task(self._keep_up())  # noqa: TID251 see above

    def attend(self) -> None:
        """From now on keep all lists up to date, since somebody looks; from any thread."""
        self._watched = True
        self._loop.call_soon_threadsafe(self.look)

    def look(self) -> None:
        """Look now whether somebody has to be asked."""
        self._wake.set()

    async def settle(self, providers: Collection[str]) -> None:
        """Ask these providers for their lists, and return once they have answered, or soon."""
        tasks = [self._task(name) for name in providers if self._may_ask(name)]
        if tasks:
            await asyncio.wait(tasks, timeout=_SETTLE_S)

    async def confirm(self, models: Collection[str]) -> None:
        """Ask again, as `settle` does, for each list that does not name one of these models."""
        learned, providers = self._map.learned, self._map.ground.providers
        await self.settle(
            {name.partition("/")[0] for name in models if learned.lacks(name, providers)}
        )

    async def discover(self, name: str) -> Listing:
        """Ask one provider for all that it says of its models; what it says counts at once.

        Raises DiscoveryFailed, also for a provider that is not there.
        """
        await self._list(name)
        await self._describe(name)
        return self._map.learned.listings[name]

    def _may_ask(self, name: str) -> bool:
        provider = self._map.ground.providers.get(name)
        if provider is None:
            return False
        return name in self._asking or self._since_s(provider) >= _LEAST_BETWEEN_S

    def _since_s(self, provider: Provider) -> float:
        """Return how long ago a provider was asked, infinity where it was another one then."""
        was, at_s = self._asked.get(provider.name, (None, 0.0))
        return time.monotonic() - at_s if was == provider else math.inf

    def _task(self, name: str) -> asyncio.Task[None]:
        """Return the task that asks this provider for its list, which all who need it share."""
        task = self._asking.get(name)
        if task is None:
            # Owned here: taken out when it is done, ended and awaited in `aclose`.
            task = asyncio.create_task(self._list_quietly(name))  # noqa: TID251 see above
            self._asking[name] = task
            task.add_done_callback(lambda _: self._asking.pop(name))
        return task

    async def _keep_up(self) -> None:
        while True:
            self._wake.clear()
            due = self._due()
            if due:
                # At once: who hangs keeps the others from nothing.
                await asyncio.gather(*map(self._ask, due))
            try:
                async with asyncio.timeout(_AGAIN_S):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _ask(self, name: str) -> None:
        """Ask a provider for all that it says; what comes of it is told, and raised nowhere."""
        await asyncio.wait([self._task(name)])
        try:
            await self._describe(name)
        except DiscoveryFailed as failure:
            log.info("%s", failure)

    def _due(self) -> list[str]:
        """Return whom to ask now: where locality hangs on it, and whose list is old."""
        catalog = self._map.catalog
        every_s = self._map.ground.settings.discovery.every_s if self._watched else None
        bound = {model.name: model for each in catalog.bindings for model in catalog.bound(each)}
        in_use = {model.provider for model in bound.values()}
        unsettled = {
            model.provider
            for model in bound.values()
            if locality_of(catalog.providers[model.provider], model) is None
        }
        due = []
        for name, provider in catalog.providers.items():
            age_s = self._since_s(provider)
            wanted = provider.locality is Locality.LOCAL or name in in_use
            if provider.kind not in {Kind.BUILTIN, Kind.LITELLM} and (
                (name in unsettled and age_s >= _AGAIN_S)
                or (every_s is not None and wanted and age_s >= self._patience_s(name, every_s))
            ):
                due.append(name)
        return due

    def _patience_s(self, name: str, every_s: float) -> float:
        return min(_AGAIN_S, every_s) if name in self._silent else every_s

    async def _list_quietly(self, name: str) -> None:
        try:
            await self._list(name)
        except DiscoveryFailed as failure:
            told, self._silent[name] = self._silent.get(name), str(failure)
            # Once: who is not running is asked again and again.
            if told != str(failure):
                log.info("%s", failure)

    async def _list(self, name: str) -> None:
        """Ask a provider for its list, and have the map learn it."""
        provider, reach = self._reached(name)
        if provider.kind is Kind.LITELLM:
            raise DiscoveryFailed(f"LiteLLM does not ask {name} for its models.")
        self._asked[name] = provider, time.monotonic()
        self._silent.setdefault(name, "")
        if provider.kind is Kind.OLLAMA:
            url = f"{provider.base_url.removesuffix('/v1')}/api/tags"
        else:
            url = f"{provider.base_url}/models"
        body = await _fetched(provider, reach, url, _LIST_S, MAX_LIST_BYTES)
        try:
            if len(body) > _AT_ONCE_BYTES:
                listing = await asyncio.to_thread(self._read, provider, body)
            else:
                listing = self._read(provider, body)
        except ValueError as error:
            raise DiscoveryFailed(f"{name} does not tell its models: {error}.") from error
        self._silent.pop(name, None)
        await self._map.learn(listing)

    def _read(self, provider: Provider, body: bytes) -> Listing:
        date = datetime.now(UTC).isoformat(timespec="seconds")
        if provider.kind is not Kind.OLLAMA:
            return Listing(provider, openai_list(body, provider.name), date)
        tags = ollama_tags(body)
        return self._ollama(provider, tags, date)

    def _ollama(self, provider: Provider, tags: list[Tag], date: str) -> Listing:
        shown = self._shown.get(provider.name, {})
        is_local = provider.locality is Locality.LOCAL
        models = ollama_list(tags, shown, provider.name, is_local=is_local)
        return Listing(provider, models, date, tuple(tags))

    async def _describe(self, name: str) -> None:
        """Ask a local Ollama about each model that it keeps and has said nothing of yet."""
        provider, reach = self._reached(name)
        if provider.locality is not Locality.LOCAL:
            return
        # A model of its cloud is not asked about: the question itself might go there.
        tags = [tag for tag in self._tags(provider) if tag.digest and not tag.is_remote]
        known = self._shown.get(name, {})
        missing = [tag for tag in tags if tag.digest not in known][:_MAX_SHOWN]
        if not missing:
            return
        places, fresh = asyncio.Semaphore(_SHOWN_AT_ONCE), dict[str, Shown]()
        with reach.use, suppress(TimeoutError):
            async with asyncio.timeout(_ALL_SHOWN_S):
                await asyncio.gather(
                    *(_show(provider, reach, tag, places, fresh) for tag in missing)
                )
        here = {tag.digest for tag in tags}
        # What was deleted is forgotten: this must not grow for ever.
        kept = {digest: each for digest, each in known.items() if digest in here}
        self._shown[name] = {**kept, **fresh}
        listing = self._map.learned.listings[name]
        # Somebody may have had the list asked for meanwhile, of another server even.
        if listing.provider == provider:
            await self._map.learn(self._ollama(provider, list(listing.tags), listing.date))

    def _tags(self, provider: Provider) -> tuple[Tag, ...]:
        """Return what an Ollama lists; nothing where that was said by another one of its name."""
        listing = self._map.learned.listings.get(provider.name)
        return listing.tags if listing is not None and listing.provider == provider else ()

    def _reached(self, name: str) -> tuple[Provider, Reach]:
        """Return a provider and the way to it, both as they are now: its key goes no other way."""
        provider, reach = self._map.ground.providers.get(name), self._reaches.get(name)
        if provider is None or reach is None:
            raise DiscoveryFailed(f"There is no provider {name} (any more).")
        return provider, reach

    async def aclose(self) -> None:
        """End all asking."""
        tasks = [*self._asking.values(), *([self._watch] if self._watch else [])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def _show(
    provider: Provider,
    reach: Reach,
    tag: Tag,
    places: asyncio.Semaphore,
    shown: dict[str, Shown],
) -> None:
    """Put down what an Ollama says of one model, unless it says nothing."""
    url = f"{provider.base_url.removesuffix('/v1')}/api/show"
    body = msgspec.json.encode({"model": tag.id})
    async with places:
        try:
            told = await _fetched(provider, reach, url, _SHOW_S, _SHOW_BYTES, body)
            shown[tag.digest] = ollama_show(told)
        except (DiscoveryFailed, ValueError) as error:
            log.info("%s/%s is not described: %s", provider.name, tag.id, error)


async def _fetched(
    provider: Provider, reach: Reach, url: str, within_s: float, size: int, body: bytes = b""
) -> bytes:
    """Return the body of an answer; DiscoveryFailed when it is none, late, or too large."""
    name, request = provider.name, question(provider, url, body)
    try:
        # It goes its way to the end, whatever becomes of the provider meanwhile.
        with reach.use:
            status, answer = await answered(reach.upstream, request, within_s, size)
    except TimeoutError as error:
        raise DiscoveryFailed(f"{name} did not list its models in {within_s:g} s.") from error
    except ValueError as error:
        raise DiscoveryFailed(f"{name} says {error} of its models.") from error
    except RouteFailed as error:
        raise DiscoveryFailed(error.message) from error
    if status != _OK:
        raise DiscoveryFailed(f"{name} answered {status} when asked for its models.")
    return answer
