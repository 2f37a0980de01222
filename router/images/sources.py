"""Where pictures come from: the request itself, folders of this machine, the network."""

import asyncio
import ssl
from collections.abc import Callable
from typing import Final

from router.images.encoded import Encoded, check, encode, measure, of_data_uri
from router.images.local_file import read_local
from router.images.network import Network
from router.images.rules import Rules
from router.upstream.trust import context_for

# Letters of base64 that are checked within a millisecond or two, whatever they hold.
_AT_ONCE: Final = 1 << 12
# What is worked on in threads is in memory twice, and no more of it than this at a time.
_HANDS: Final = 4
SYSTEM: Final = Network()


class Sources:
    """Gets pictures for all requests, the large ones off the event loop and a few at a time."""

    def __init__(self, network: Network = SYSTEM) -> None:
        self.network = network
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
        async with self._hands:
            return await asyncio.to_thread(_read, path, rules)

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


def _load() -> ssl.SSLContext:
    """Import aiohttp and read the platform's authorities: together a good part of a second."""
    from router.images import fetch  # noqa: F401, PLC0415 only for who fetches

    return context_for(None)


def _check(text: str, media_type: str | None, rules: Rules) -> None:
    check(of_data_uri(text) if media_type is None else Encoded(media_type, text), rules)


def _read(path: str, rules: Rules) -> Encoded:
    return _encoded(read_local(path, rules.roots, rules.max_bytes), rules)


def _encoded(data: bytes, rules: Rules) -> Encoded:
    return encode(data, measure(data, rules))
