"""The network as pictures are fetched from it; a test's own is a small one."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Final

import psutil

from router.errors import RouteFailed
from router.images.address import IPAddress, IPNetwork, address_of, is_public

# Bits of a network in which machines know each other; one of fewer is a tunnel's to everywhere.
_WIDEST: Final = {4: 16, 6: 48}


async def _resolve(host: str) -> Sequence[str]:
    """Ask the system for the addresses of a name; OSError where there are none."""
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


def own_networks() -> list[IPNetwork]:
    """Return the addresses of this machine's interfaces, with their neighbours'.

    An address of IPv6 that is anybody's on the internet is what most machines at home have, too.
    Blocks, for about a millisecond.
    """
    return [
        _network(address_of(each.address), each.netmask)
        for addresses in psutil.net_if_addrs().values()
        for each in addresses
        if each.family in {socket.AF_INET, socket.AF_INET6}
    ]


def _network(address: IPAddress, netmask: str | None) -> IPNetwork:
    """Return an interface's network; the address alone where it is none of neighbours.

    A tunnel may stand for half of the internet.
    """
    bits = int(ip_address(netmask)).bit_count() if netmask else address.max_prefixlen
    if bits < _WIDEST[address.version]:
        bits = address.max_prefixlen
    return ip_network(f"{address}/{bits}", strict=False)


@dataclass(frozen=True, slots=True)
class Network:
    """How names are resolved, which addresses are connected to, and how long all of that may take.

    `own` returns this machine's networks of the moment, which are not connected to, and may block.
    `within_s` is for all pictures of one request together, in seconds; `hops` counts redirects.
    """

    resolve: Callable[[str], Awaitable[Sequence[str]]] = _resolve
    is_public: Callable[[IPAddress], bool] = is_public
    own: Callable[[], Sequence[IPNetwork]] = own_networks
    within_s: float = 30.0
    hops: int = 3


def too_slow(network: Network) -> RouteFailed:
    """Return the refusal of pictures that do not come in time."""
    return not_there(f"It was not there within {network.within_s:g} s.")


def not_there(why: str) -> RouteFailed:
    """Return the refusal of a picture that could not be fetched."""
    return RouteFailed(
        "image_not_found",
        f"The picture could not be fetched. {why} Send the picture itself as a data: URI.",
    )
