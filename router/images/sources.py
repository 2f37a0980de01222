"""Where pictures come from: the request itself, folders of this machine, the network."""

import asyncio
import ssl
from collections.abc import Callable
from functools import partial
from typing import Final

from router.images.encoded import Encoded, check, encode, measure, of_data_uri
from router.images.local_file import place_of, read_local, too_slow_to_read
from router.images.network import Network
from router.images.readers import Readers, T
from router.images.rules import Rules
from router.upstream.trust import context_for

# Letters of base64 that are checked within a millisecond or two, whatever they hold.
_AT_ONCE: Final = 1 << 12
# What is worked on in threads is in memory twice, and no more of it than this at a time.
_HANDS: Final = 4
# A file of the largest size from a slow disk takes a second.
_READ_WITHIN_S: Final = 10.0
SYSTEM: Final = Network()
# A PNG of one pixel.
_STANDS_FOR_ALL: Final = Encoded(
    "image/png",
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII=",
)


class Sources:
    """Gets pictures for all requests, the large ones off the event loop and a few at a time."""

    def __init__(self, network: Network = SYSTEM, read_within_s: float = _READ_WITHIN_S) -> None:
        self.network = network
        self.readers = Readers(read_within_s)
        self._hands = asyncio.Semaphore(_HANDS)
        self._trust: ssl.SSLContext | None = None

    def __repr__(self) -> str:
        return f"<Sources busy={self._hands.locked()}>"

    async def check(self, text: str, media_type: str | None, rules: Rules) -> None:
        """Check a picture that came with its request; RouteFailed `invalid_image`.

        It is a `data:` URI, or base64 alone where a `media_type` is declared.
        """
        if len(text) <= _AT_ONCE:
            _check(text, media_type, rules)
            # A request may hold many, and others are to have their turn.
            return await asyncio.sleep(0)
        async with self._hands:
            return await asyncio.to_thread(_check, text, media_type, rules)

    async def read(self, path: str, rules: Rules) -> Encoded:
        """Return a picture of this machine.

        Raises RouteFailed `image_not_found` or `invalid_image`.
        """
        data = await self._run(partial(read_local, path, rules.roots, rules.max_bytes))
        async with self._hands:
            return await asyncio.to_thread(_encoded, data, rules)

    async def _run(self, read: Callable[[], T]) -> T:
        try:
            return await self.readers.run(read)
        except TimeoutError as error:
            raise too_slow_to_read(self.readers.within_s) from error

    async def fetch(self, url: str, rules: Rules, hold: Callable[[int], None]) -> Encoded:
        """Return a picture of the network; `hold` is told of its bytes as they come.

        Raises Refused `image_url_not_allowed`; RouteFailed `image_not_found` or `invalid_image`.
        """
        if self._trust is None:
            self._trust = await asyncio.to_thread(_load)
        from router.images.fetch import fetch  # noqa: PLC0415 loaded above

        data = await fetch(url, self.network, self._trust, rules.max_bytes, hold)
        async with self._hands:
            return await asyncio.to_thread(_encoded, data, rules)


class Unseen(Sources):
    """Sources that open nothing: one small picture stands for each that would be read or fetched.

    What came with the request is checked as it always is.
    """

    async def read(self, path: str, rules: Rules) -> Encoded:
        """Return the small picture for a path below a root; RouteFailed `image_not_found` else."""
        await self._run(partial(place_of, path, rules.roots))
        return _STANDS_FOR_ALL

    async def fetch(
        self,
        url: str,  # noqa: ARG002 as its base has it
        rules: Rules,  # noqa: ARG002 likewise
        hold: Callable[[int], None],  # noqa: ARG002 likewise
    ) -> Encoded:
        """Return the small picture."""
        return _STANDS_FOR_ALL


def _load() -> ssl.SSLContext:
    """Import aiohttp and read the platform's authorities: together a good part of a second."""
    from router.images import fetch  # noqa: F401, PLC0415 only for who fetches

    return context_for(None)


def _check(text: str, media_type: str | None, rules: Rules) -> None:
    check(of_data_uri(text) if media_type is None else Encoded(media_type, text), rules)


def _encoded(data: bytes, rules: Rules) -> Encoded:
    return encode(data, measure(data, rules))
