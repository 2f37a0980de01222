"""The pictures of one request, as each of its routes gets them."""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from router.body import JsonBody, Share
from router.classification.pictures import Reference
from router.errors import Refused, RouteFailed
from router.images.encoded import Encoded
from router.images.network import too_slow
from router.images.rules import Rules
from router.images.sources import Sources
from router.images.way import Way, check_file, ways
from router.resolver import Route

# What is joined anew in less than a millisecond.
_AT_ONCE: Final = 1 << 18
_NO_ROOM: Final = "queue_full"


class Pictures:
    """What the pictures of a request are found to be: nothing is fetched, read or checked twice.

    `share` holds the bytes that come to the request's own.
    """

    def __init__(
        self, references: tuple[Reference, ...], body: JsonBody, share: Share, sources: Sources
    ) -> None:
        self._references = references
        self._body = body
        self._share = share
        self._sources = sources
        self._checked: set[tuple[str | int, ...]] = set()
        self._found: dict[str, Encoded] = {}
        self._joined: dict[frozenset[Reference], JsonBody] = {}
        self._has_files = False
        # The letters of base64 that the share counts.
        self._held = 0
        self._until: float | None = None
        # Whether the route of the moment gets other pictures than were sent.
        self.replaces = False
        # How long others were waited for, in seconds.
        self.waited_s = 0.0

    def __repr__(self) -> str:
        return f"<Pictures {len(self._references)} found={len(self._found)}>"

    async def shown_to(self, route: Route, rules: Rules, *, stays: bool) -> JsonBody:
        """Return the request's body as a route gets it: the very same where nothing is replaced.

        Raises RouteFailed `image_url_not_allowed`, `remote_not_allowed`, `image_not_found` or
        `invalid_image` where another route may show them; Refused `image_url_not_allowed` where
        none may, `queue_full` where requests hold too much already.
        """
        decided = ways(self._references, route, rules, stays=stays)
        self._has_files = any(way is Way.READ for _, way in decided)
        found: dict[Reference, Encoded] = {}
        for reference, way in decided:
            try:
                if way is Way.CHECKED:
                    await self._check(reference, rules)
                elif way.changes:
                    found[reference] = await self._find(reference.text, way, rules)
            except (Refused, RouteFailed) as error:
                if error.code != _NO_ROOM:
                    error.param = reference.param
                raise
        self.replaces = bool(found)
        return await self._join(found) if found else self._body

    def check_leaving(self, route: Route, rules: Rules) -> None:
        """Check once more, after a wait, that files of this machine may go by a route.

        Raises RouteFailed `remote_not_allowed`.
        """
        if self._has_files:
            check_file(route, rules)

    async def _check(self, reference: Reference, rules: Rules) -> None:
        if reference.place not in self._checked:
            await self._sources.check(reference.text, reference.media_type, rules)
            self._checked.add(reference.place)

    async def _find(self, text: str, way: Way, rules: Rules) -> Encoded:
        found = self._found.get(text)
        if found is None:
            found = await (
                self._fetch(text, rules) if way is Way.FETCHED else self._sources.read(text, rules)
            )
            self._share.add(len(found.text))
            self._held += len(found.text)
            self._found[text] = found
        return found

    async def _fetch(self, url: str, rules: Rules) -> Encoded:
        clock = asyncio.get_running_loop().time
        began = clock()
        network = self._sources.network
        if self._until is None:
            self._until = began + network.within_s
        try:
            async with asyncio.timeout_at(self._until):
                return await self._sources.fetch(url, rules, self._share.add)
        except TimeoutError as error:
            raise too_slow(network) from error
        finally:
            self.waited_s += clock() - began

    async def _join(self, found: Mapping[Reference, Encoded]) -> JsonBody:
        places = frozenset(found)
        joined = self._joined.get(places)
        if joined is None:
            size = sum(len(each.text) for each in found.values())
            # A body holds a picture wherever it is named; what was found is one of these.
            self._share.add(max(0, size - self._held))
            self._held = max(size, self._held)
            values = {each.place: _value(each, encoded) for each, encoded in found.items()}
            joined = (
                self._body.with_values(values)
                if size <= _AT_ONCE
                else await asyncio.to_thread(self._body.with_values, values)
            )
            # One of them: they are large.
            self._joined = {places: joined}
        return joined


def _value(reference: Reference, found: Encoded) -> Any:
    """Return what stands in the body for a picture, in the words of its protocol."""
    if not reference.is_source:
        return found.uri
    return {"type": "base64", "media_type": found.media_type, "data": found.text}
