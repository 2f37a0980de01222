"""How a request for a response is refused that no chat completion can say."""

from router.errors import Refused

_WHY = "The model that answers is reached over chat completions"


def unsupported(param: str, text: str) -> Refused:
    """Return the refusal of what chat completions have no word for; `text` says what to do."""
    return Refused("unsupported_parameter", f"{_WHY}: {text}", param=param)
