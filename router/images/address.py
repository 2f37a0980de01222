"""Which addresses a picture may be fetched from: public ones, however they are spelled.

The tables are IANA's special-purpose registries of IPv4 and IPv6 addresses (RFC 6890).
"""

import re
import socket
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
)
from typing import Final

from router.errors import Refused

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

_NOT_PUBLIC_V4: Final[tuple[IPv4Network, ...]] = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",  # this network
            "10.0.0.0/8",  # private
            "100.64.0.0/10",  # between carriers and their customers
            "127.0.0.0/8",  # loopback
            "168.63.129.16/32",  # a virtual machine's host in Azure, though it looks public
            "169.254.0.0/16",  # link-local; clouds tell a machine its secrets there
            "172.16.0.0/12",  # private
            "192.0.0.0/24",  # protocol assignments
            "192.0.2.0/24",  # documentation
            "192.88.99.0/24",  # relays of 6to4
            "192.168.0.0/16",  # private
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, and broadcast
        ),
    )
)
# All else of IPv6 is this machine, this network, or IPv4 in other clothes: mapped, NAT64.
_GLOBAL_V6: Final = IPv6Network("2000::/3")
_NOT_PUBLIC_V6: Final[tuple[IPv6Network, ...]] = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # protocol assignments; Teredo, which holds an IPv4 address
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4, which holds an IPv4 address
            "3fff::/20",  # documentation
        ),
    )
)
# Strict, so that no two readers take it for different addresses: no name or password, nothing
# that could be taken for the end of the host, no name that is not ASCII.
_URL: Final = re.compile(
    r"https?://(?P<host>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?"
    r"(?:[/?#][^\x00-\x20\x7f\\]*)?",
    re.IGNORECASE,
)
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*", re.IGNORECASE)
_MAX_URL: Final = 8192
_MAX_PORT: Final = 65535
_NOT_ALLOWED: Final = "image_url_not_allowed"


def is_public(address: IPAddress) -> bool:
    """Tell whether an address is of those that anybody on the internet may have."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_V4)
    return address in _GLOBAL_V6 and not any(address in network for network in _NOT_PUBLIC_V6)


def public_host(url: str) -> str:
    """Return the host of an http(s) address that may be public, in small letters.

    A name is not looked up: where it leads is for who connects to see. Raises Refused
    `image_url_not_allowed`.
    """
    found = _URL.fullmatch(url) if len(url) <= _MAX_URL else None
    if found is None or not 0 < int(found["port"] or 1) <= _MAX_PORT:
        raise Refused(
            _NOT_ALLOWED,
            "This is no plain http:// or https:// address: a host of ASCII letters, no name or "
            "password, no space or backslash. Send the picture itself as a data: URI.",
        )
    host = found["host"].lower()
    if is_within(host):
        raise not_public()
    return host


def is_within(host: str) -> bool:
    """Tell whether a host, as an address spells it, is surely this machine or of its network."""
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    bare = name.removeprefix("[").removesuffix("]")
    try:
        return not is_public(ip_address(bare))
    except ValueError:
        pass
    # What ends in a number is an IPv4 address to most, in one of its older spellings.
    if ":" not in bare and not _NUMBER.fullmatch(bare.rpartition(".")[2]):
        return False
    try:
        return not is_public(IPv4Address(socket.inet_aton(bare)))
    except OSError:
        return True


def not_public() -> Refused:
    """Return the refusal of what is, or leads to, no public address; it may stand in a log."""
    return Refused(
        _NOT_ALLOWED,
        "This is no public address, or leads to one that is not: pictures are not fetched from "
        "this machine or its network. Send the picture itself as a data: URI.",
    )


def address_of(text: str) -> IPAddress:
    """Return a numeric address; one with a zone is of a link."""
    return ip_address(text.partition("%")[0])
