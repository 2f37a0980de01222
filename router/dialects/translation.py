"""What every dialect makes of a request: a chat completion, and the way back for its answer."""

from collections.abc import Mapping
from typing import Any, Protocol


class Translation(Protocol):
    """One request of another protocol, put as a chat completion.

    Whoever makes one raises Refused `unsupported_parameter` for what no chat completion can say,
    and `invalid_request` for what is malformed.
    """

    @property
    def chat(self) -> Mapping[str, Any]:
        """The body of the chat completion, without `model` and `stream_options`."""

    @property
    def hints(self) -> Mapping[str, Any]:
        """Fields for the chat that servers of local models know, and that others refuse.

        The answer can do without: they keep a model from work that nobody will see.
        """

    @property
    def number(self) -> int:
        """What the next event of the stream has, where the protocol counts them; else 0."""

    def answer(self, chat: Mapping[str, Any]) -> dict[str, Any]:
        """Return a whole chat completion in the client's protocol.

        Raises StreamFailed `upstream_invalid_frame` for what is none.
        """

    def feed(self, chunk: Mapping[str, Any]) -> bytes:
        """Return the events, framed, that one chunk of a chat's stream becomes.

        Raises StreamFailed `upstream_invalid_frame` for what no chunk may be.
        """

    def finish(self) -> bytes:
        """Return the events, framed, that end a stream whose chat has come to a good end."""


class Translate(Protocol):
    """Puts the fields of one request as a chat completion."""

    def __call__(self, fields: Mapping[str, Any], *, request_id: str, now: int) -> Translation:
        """Return the translation; `request_id` and `now`, in Unix seconds, are what ids are of."""
