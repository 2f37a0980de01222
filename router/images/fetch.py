"""Fetching one picture from a public address.

aiohttp asks us for every socket that it connects, with the address that it connects it to: there it
is decided, whatever the URL looked like, whoever resolved the name, and after each redirect anew.
It reads no proxy variable, keeps no cookie and no connection, inflates nothing, and sends nothing
of the client's.
"""

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any, Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL  # aiohttp's own addresses

from router.images.address import IPNetwork, address_of, not_public, public_host
from router.images.encoded import too_large
from router.images.network import Network, not_there
from router.upstream.pool import Connector

_OK: Final = 200
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_MAX_FIELD: Final = 1 << 15
_HEADERS: Final = {
    "accept": "image/png, image/jpeg, image/webp, image/gif",
    "accept-encoding": "identity",
    # Some who publish pictures refuse who names nobody.
    "user-agent": "signalbox",
}
Hold = Callable[[int], None]


async def fetch(
    url: str, network: Network, trust: ssl.SSLContext, max_bytes: int, hold: Hold
) -> bytes:
    """Return what is at an address; `hold` is told of the bytes as they come, and may refuse them.

    Raises Refused `image_url_not_allowed`; RouteFailed `image_not_found`, or `invalid_image` for
    what is too large.
    """
    own = await asyncio.to_thread(network.own)
    for _ in range(network.hops + 1):
        public_host(url)
        door = _Door(network, own)
        try:
            async with (
                _session(door, trust) as session,
                session.get(
                    URL(url, encoded=url.isascii()), allow_redirects=False, headers=_HEADERS
                ) as response,
            ):
                if response.status not in _REDIRECTS:
                    return await _body(response, max_bytes, hold)
                url = str(URL(url).join(URL(response.headers.get("location", ""))))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # Its frames would be held by what they hold.
            if door.refused:
                raise not_public() from error.with_traceback(None)
            raise not_there("Its host could not be reached.") from error.with_traceback(None)
    raise not_there(f"It is redirected more than {network.hops} times.")


async def _body(response: aiohttp.ClientResponse, max_bytes: int, hold: Hold) -> bytes:
    if response.status != _OK:
        raise not_there(f"Its host answered {response.status}.")
    if (response.content_length or 0) > max_bytes:
        raise too_large(max_bytes)
    pieces: list[bytes] = []
    size = 0
    async for piece in response.content.iter_any():
        size += len(piece)
        if size > max_bytes:
            raise too_large(max_bytes)
        hold(len(piece))
        pieces.append(piece)
    return b"".join(pieces)


class _Door:
    """Makes the sockets of one hop, none to an address that is not public."""

    def __init__(self, network: Network, own: Sequence[IPNetwork]) -> None:
        self.network = network
        self._own = own
        self.refused = False

    def __call__(self, info: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, address = info
        there = address_of(address[0])
        if not self.network.is_public(there) or any(there in each for each in self._own):
            self.refused = True
            raise PermissionError(errno.EACCES, "not a public address")
        return socket.socket(family, kind, protocol)


class _Resolver(AbstractResolver):
    """Resolves by the network that is given."""

    def __init__(self, network: Network) -> None:
        self._network = network

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_UNSPEC,  # noqa: ARG002 aiohttp's own signature
    ) -> list[ResolveResult]:
        """Return the addresses of a name."""
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address in await self._network.resolve(host)
        ]

    async def close(self) -> None:
        """Hold nothing."""


def _session(door: _Door, trust: ssl.SSLContext) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=Connector(
            ssl=trust,
            resolver=_Resolver(door.network),
            socket_factory=door,
            use_dns_cache=False,
            force_close=True,
        ),
        # All of it together has a deadline, which is the caller's.
        timeout=aiohttp.ClientTimeout(total=None),
        auto_decompress=False,
        trust_env=False,
        max_line_size=_MAX_FIELD,
        max_field_size=_MAX_FIELD,
    )
