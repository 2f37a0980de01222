"""Sound, films and files that a request names and does not hold: none for a server near us.

It would fetch an address from where we are, and reads paths of our machine; a cloud fetches from
where it is.
"""

from collections.abc import Mapping
from typing import Any

from router.capabilities import Requirement
from router.classification.attachments import named_elsewhere
from router.classification.nesting import name_of
from router.errors import RouteFailed
from router.images.way import is_near_us
from router.resolver import Route


def check_attachments(requirement: Requirement, body: Mapping[str, Any], route: Route) -> None:
    """Check that a route may have what a request names; RouteFailed `file_url_not_allowed`."""
    if not requirement.inputs or not is_near_us(route.provider):
        return
    for place in named_elsewhere(requirement.dialect, body):
        raise RouteFailed(
            "file_url_not_allowed",
            f"{route.model.name} gets no address and no path of sound, films or files: its server "
            "would fetch it from this machine. Send the content itself, in base64 or as a data: "
            "URI.",
            param=name_of(place),
        )
