"""The network as pictures are fetched from it; a test's own is a small one."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from router.errors import RouteFailed
from router.images.address import IPAddress, is_public


async def _resolve(host: str) -> Sequence[str]:
    """Ask the system for the addresses of a name; OSError where there are none."""
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


@dataclass(frozen=True, slots=True)
class Network:
    """How names are resolved, which addresses are connected to, and how long all of that may take.

    `within_s` is for all pictures of one request together, in seconds; `hops` counts redirects.
    """

    resolve: Callable[[str], Awaitable[Sequence[str]]] = _resolve
    is_public: Callable[[IPAddress], bool] = is_public
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
