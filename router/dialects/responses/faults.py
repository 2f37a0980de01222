"""How a request is refused that no chat completion can say, or that is malformed."""

from typing import Any

from router.errors import Refused

_WHY = "The model that answers is reached over chat completions"


def unsupported(param: str, text: str) -> Refused:
    """Return the refusal of what chat completions have no word for; `text` says what to do."""
    return Refused("unsupported_parameter", f"{_WHY}: {text}", param=param)


def malformed(param: str, expected: str) -> Refused:
    """Return the refusal of a value that the responses protocol does not have there."""
    return Refused("invalid_request", f"{param} must be {expected}.", param=param)


def object_at(value: Any, where: str) -> dict[str, Any]:
    """Return a value that has to be an object; Refused if it is none."""
    if not isinstance(value, dict):
        raise malformed(where, "an object")
    return value


def list_at(value: Any, where: str) -> list[Any]:
    """Return a value that has to be a list; Refused if it is none."""
    if not isinstance(value, list):
        raise malformed(where, "a list")
    return value


def text_at(value: Any, where: str) -> str:
    """Return a value that has to be a string; Refused if it is none."""
    if not isinstance(value, str):
        raise malformed(where, "a string")
    return value
