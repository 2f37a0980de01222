"""Which way each picture takes to a route: decided by who serves it, before anything is fetched.

A server in our own network decodes pictures with our machine and reaches what we reach, so that it
gets bytes that were looked at, never an address. Others fetch for themselves, from where they are.
"""

import functools
from collections.abc import Iterable
from enum import Enum, auto
from typing import Final
from urllib.parse import urlsplit

from router.capabilities import Requirement
from router.catalog import Catalog, Kind, Locality, Provider
from router.classification.pictures import Reference
from router.errors import Refused, RouteFailed
from router.images.address import is_within, public_host
from router.images.encoded import is_data_uri
from router.images.local_file import not_found
from router.images.rules import Rules
from router.resolver import Route

# Their servers are on this machine or in its network, or take no address.
_KINDS_WITHIN: Final = frozenset({Kind.BUILTIN, Kind.OLLAMA, Kind.PROCESS})
_WEB: Final = ("http:", "https:")


class Way(Enum):
    """What is done with a picture on its way to a route."""

    AS_IS = auto()
    CHECKED = auto()
    FETCHED = auto()
    READ = auto()

    @property
    def changes(self) -> bool:
        """Whether the provider gets something else than the client sent."""
        return self in {Way.FETCHED, Way.READ}


def way_of(reference: Reference, route: Route, rules: Rules, *, stays: bool) -> Way:
    """Return the way of a picture; `stays` forbids whatever leaves the machine.

    Raises RouteFailed where another route may show it, Refused where none may.
    """
    text = reference.text
    is_near = is_near_us(route.provider)
    if reference.media_type is not None or is_data_uri(text):
        return Way.CHECKED if is_near else Way.AS_IS
    scheme = text[:16].lower()
    if scheme.startswith(_WEB):
        public_host(text)
        return _way_of_address(route, rules, stays=stays) if is_near else Way.AS_IS
    if "://" in text[:32] and not scheme.startswith("file:"):
        raise Refused(
            "image_url_not_allowed",
            "Pictures are taken as data: URIs, from http:// and https:// addresses, and from files "
            "below images.local_roots, and in no other way.",
        )
    if not rules.roots:
        raise not_found()
    check_file(route, rules)
    return Way.READ


def _way_of_address(route: Route, rules: Rules, *, stays: bool) -> Way:
    if not rules.remote_fetch:
        raise RouteFailed(
            "image_url_not_allowed",
            f"{route.model.name} gets no address of a picture, and images.remote_fetch is off in "
            "router.yaml. Turn it on, or send the picture itself as a data: URI.",
        )
    if stays:
        raise RouteFailed(
            "remote_not_allowed",
            "Fetching a picture leaves this machine, and local_only is set. Send the picture "
            "itself as a data: URI.",
        )
    return Way.FETCHED


def check_file(route: Route, rules: Rules) -> None:
    """Let a file of this machine pass to a route; RouteFailed `remote_not_allowed` where not."""
    if route.locality is not Locality.LOCAL and not rules.files_to_cloud:
        raise RouteFailed(
            "remote_not_allowed",
            f"A picture of this request is a file of this machine, and {route.model.name} is "
            "remote, or may be. Assign a local model, or set images.allow_local_files_to_cloud.",
        )


def is_near_us(provider: Provider) -> bool:
    """Tell whether a provider's server is on this machine or in its network."""
    return (
        provider.kind in _KINDS_WITHIN
        or provider.locality is Locality.LOCAL
        or _is_address_within(provider.base_url)
    )


@functools.lru_cache(maxsize=256)
def _is_address_within(base_url: str) -> bool:
    return is_within(urlsplit(base_url).hostname or "")


def stays_here(requirement: Requirement, route: Route, catalog: Catalog) -> bool:
    """Tell whether nothing of a request may leave the machine."""
    return requirement.local_only or catalog.stays_local((route.capability, *requirement.levers))


def ways(
    references: Iterable[Reference], route: Route, rules: Rules, *, stays: bool
) -> list[tuple[Reference, Way]]:
    """Return the way of each picture; raises as `way_of`, with the picture's place."""
    found = []
    for reference in references:
        try:
            found.append((reference, way_of(reference, route, rules, stays=stays)))
        except (Refused, RouteFailed) as error:
            error.param = reference.param
            raise
    return found
