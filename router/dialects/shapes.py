"""What an answer is looked at with: its provider may have written anything.

StreamFailed `upstream_invalid_frame` is the one error of an answer that cannot be put back.
"""

from collections.abc import Mapping
from typing import Any

from router.errors import StreamFailed


def invalid(what: str) -> StreamFailed:
    """Return the failure of an answer that cannot be put back; `what` says what came instead."""
    return StreamFailed("upstream_invalid_frame", f"The provider sent {what}.")


def object_of(value: object, what: str) -> Mapping[str, Any]:
    """Return an object, an empty one for null; StreamFailed for anything else."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid(f"{what} that is no object")
    return value


def list_of(holder: Mapping[str, Any], name: str) -> list[Any]:
    """Return a list, an empty one for null or none; StreamFailed for anything else."""
    value = holder.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise invalid(f"{name} that are no list")
    return value


def text_of(holder: Mapping[str, Any], name: str) -> str:
    """Return a text, "" for null or none; StreamFailed for anything else."""
    value = holder.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise invalid(f"{name} that is no text")
    return value
