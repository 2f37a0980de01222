"""Server-sent events at byte level: whole events out of any pieces, and how a stream ends.

Implements the parsing of the WHATWG HTML standard, section 9.2.6, without decoding: lines end at
CR, LF or CRLF only, and an event is passed on as the very bytes that came.
"""

import re
from collections.abc import Callable
from enum import Enum, auto
from typing import Any

import msgspec

from router.errors import StreamFailed
from router.usage import Usage, usage_of

# An event ends where a line end is followed by another one. CRLF is one line end, never two.
_BLANK_LINE = re.compile(rb"(?:\r\n|\r(?!\n)|\n)(?:\r\n|\r|\n)")
_LINE_END = re.compile(rb"\r\n|\r|\n")
_LONGEST_MATCH = 4
_BOM = b"\xef\xbb\xbf"
DONE = b"[DONE]"
# What an event has beside its data when that is all it has, at most.
_DATA_ALONE = len(b"data: \r\n\r\n")


class EventSplitter:
    """Cuts a byte stream at its blank lines. `max_event` bounds one event, in bytes."""

    def __init__(self, max_event: int = 1 << 20) -> None:
        self._max_event = max_event
        self._rest = bytearray()

    def __repr__(self) -> str:
        return f"<EventSplitter rest={len(self._rest)}>"

    @property
    def rest(self) -> bytes:
        """The bytes after the last whole event."""
        return bytes(self._rest)

    def feed(self, data: bytes) -> list[bytes]:
        """Return the whole events that `data` completes, each with its blank line.

        Raises StreamFailed `upstream_invalid_frame` when an event grows over `max_event`.
        """
        rest = self._rest
        if not rest and len(data) <= self._max_event and _is_one_event(data):
            return [data]
        # The blank line may straddle the border, so the search starts a little before it.
        search_from = max(0, len(rest) - _LONGEST_MATCH)
        rest += data
        events: list[bytes] = []
        start = 0
        while (blank := _BLANK_LINE.search(rest, search_from)) is not None:
            events.append(bytes(rest[start : blank.end()]))
            start = search_from = blank.end()
        del rest[:start]
        if len(rest) > self._max_event:
            raise StreamFailed(
                "upstream_invalid_frame",
                f"The provider sent an event of more than {self._max_event} bytes.",
            )
        return events


def _is_one_event(data: bytes) -> bool:
    """Tell the common form, one line and its blank one, without a look at each byte."""
    return data.find(b"\n") == len(data) - 2 and data.endswith(b"\n\n") and b"\r" not in data


def payload_of(event: bytes) -> bytes | None:
    """Return an event's data, its lines joined by LF; None when it has none (a comment, a ping)."""
    if event.startswith(b"data: ") and _is_one_event(event):
        return event[6:-2]
    lines = []
    # A byte order mark may stand before the first event.
    for line in _LINE_END.split(event.removeprefix(_BOM)):
        if line == b"data":
            lines.append(b"")
        elif line.startswith(b"data:"):
            value = line[5:]
            lines.append(value.removeprefix(b" "))
    return b"\n".join(lines) if lines else None


class Ending(Enum):
    """How a stream stands: still open, ended as it should, or ended by the provider's own error."""

    OPEN = auto()
    COMPLETE = auto()
    FAILED = auto()


class JsonStream:
    """Watches a stream's data to tell a whole answer from a cut one; what that is, a kind says.

    `number` is what the next event would have, in a protocol that counts them.
    """

    number = 0
    # Raises StreamFailed where the tokens that were told mean that the answer is none.
    check_usage: Callable[[Usage], None] | None = None

    def __init__(self) -> None:
        self.said_done = False
        self.said_error = False
        # The tokens that the provider told last. Where the client did not ask for them, the event
        # that tells nothing else is not for it.
        self.usage: Usage | None = None
        self.withholds_usage = False
        self.told_usage_alone = False
        # The last event's data, decoded; None before the first, and for `[DONE]`.
        self.chunk: dict[str, Any] | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.ending.name}>"

    @property
    def whole(self) -> bool:
        """Whether everything was said that had to be, were the stream over now."""
        raise NotImplementedError

    def look(self, chunk: dict[str, Any]) -> bool:
        """Take note of a decoded event; return whether it is a sign of life."""
        raise NotImplementedError

    @property
    def ending(self) -> Ending:
        """How the stream would have ended, were it over now."""
        if self.said_error:
            return Ending.FAILED
        return Ending.COMPLETE if self.said_done or self.whole else Ending.OPEN

    def observe_event(self, event: bytes) -> bool:
        """Take note of a whole event; return whether it had data that is a sign of life.

        Raises StreamFailed `upstream_invalid_frame` when its data is not a JSON object in valid
        UTF-8, or when it is named an error and holds none that a client would notice.
        """
        payload = payload_of(event)
        if payload is None:
            return False
        lives = self.observe(payload)
        has_more = len(event) - len(payload) > _DATA_ALONE
        if has_more and not self.said_error and _is_named_error(event):
            raise StreamFailed(
                "upstream_invalid_frame", "The provider ended its answer with an error of its own."
            )
        return lives

    def observe(self, payload: bytes) -> bool:
        """Take note of one event's data; return whether it is a sign of life.

        Raises StreamFailed `upstream_invalid_frame` when it is not a JSON object in valid UTF-8.
        """
        self.told_usage_alone = False
        if payload == DONE:
            self.chunk = None
            self.said_done = True
            return True
        try:
            chunk = msgspec.json.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            chunk = None
        # Raised here, without that as its cause: a cause holds the frames that hold the error.
        if not isinstance(chunk, dict):
            raise StreamFailed(
                "upstream_invalid_frame", "The provider sent an event that is not JSON."
            )
        self.chunk = chunk
        if chunk.get("error"):
            self.said_error = True
        return self.look(chunk)


class ChatStream(JsonStream):
    """A stream of choices: chat completions, and completions.

    Complete is one that said `[DONE]`, or in which every choice seen has a finish_reason.
    """

    def __init__(self) -> None:
        super().__init__()
        self._open: set[int] = set()
        self._finished: set[int] = set()

    @property
    def whole(self) -> bool:
        """Whether every choice seen has come to its end."""
        return bool(self._finished) and not self._open

    def look(self, chunk: dict[str, Any]) -> bool:
        """Take note of the choices of a chunk."""
        choices = chunk.get("choices")
        if isinstance(choices, list):
            for choice in choices:
                self._observe_choice(choice)
        if chunk.get("usage"):
            self.usage = usage_of(chunk) or self.usage
            self.told_usage_alone = not choices
            if self.check_usage is not None and self.usage is not None:
                self.check_usage(self.usage)
        return True

    def _observe_choice(self, choice: Any) -> None:
        if not isinstance(choice, dict):
            return
        index = choice.get("index")
        number = index if isinstance(index, int) else 0
        if choice.get("finish_reason"):
            self._finished.add(number)
            self._open.discard(number)
        elif number not in self._finished:
            self._open.add(number)


class TypedStream(JsonStream):
    """A stream of events that each say their `type`.

    It is whole once one of the types `ends` has come. Nothing follows that, unless `goes_on` says
    that there may be several.
    """

    def __init__(self, *ends: str, goes_on: bool = False) -> None:
        super().__init__()
        self._ends = ends
        self._goes_on = goes_on
        self._ended = False

    @property
    def whole(self) -> bool:
        """Whether the stream has said that it ends."""
        return self._ended

    def look(self, chunk: dict[str, Any]) -> bool:
        """Take note of an event's type; a ping is no sign of life."""
        kind = chunk.get("type")
        number = chunk.get("sequence_number")
        if type(number) is int:
            self.number = number + 1
        if kind in self._ends:
            self._ended = True
            self.said_done = not self._goes_on
        elif kind == "error":
            self.said_error = True
        return kind != "ping"


def _is_named_error(event: bytes) -> bool:
    names = [line for line in _LINE_END.split(event.removeprefix(_BOM)) if line[:6] == b"event:"]
    # The last name counts.
    return bool(names) and names[-1][6:].removeprefix(b" ") == b"error"
