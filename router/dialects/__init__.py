"""Conversations in other protocols than chat completions, put as those, and the answers put back.

Pure: a package for each protocol, and a state machine for each of its streams.
"""

from collections.abc import Mapping
from typing import Final

from router.dialects import messages, responses
from router.dialects.translation import Translate

_TRANSLATORS: Final[Mapping[str, Translate]] = {
    "/v1/responses": responses.translate,
    "/v1/messages": messages.translate,
    "/v1/messages/count_tokens": messages.count,
}


def translator(path: str) -> Translate:
    """Return what puts a request at a path as a chat completion; KeyError where nothing does."""
    return _TRANSLATORS[path]
