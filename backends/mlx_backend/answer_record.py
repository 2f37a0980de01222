"""What the log keeps of an answer: numbers and names from a fixed list, never any of its text."""

import logging
import re
from collections.abc import Callable, Iterable
from time import monotonic

import msgspec

from backends.mlx_backend.choice import Ended
from backends.wire import REQUEST_ID

log = logging.getLogger(__name__)

# W3C trace context: version, trace id, parent id, flags, and what a later version adds. Version
# ff and ids of zeros are none.
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})(?P<trace_id>[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?"
)
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_MS = 1000


class Line(msgspec.Struct, omit_defaults=True):
    """The fields that may be logged; durations in milliseconds, `error` a code."""

    model: str
    status: int = 0
    error: str | None = None
    request_id: str | None = None
    trace_id: str | None = None
    choices: int = 1
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    queue_ms: int | None = None
    first_text_ms: int | None = None
    total_ms: int = 0


class AnswerRecord:
    """Keeps one answer's times, and writes its line; made when the request has come in."""

    def __init__(
        self,
        model: str,
        headers: Iterable[tuple[bytes, bytes]],
        *,
        choices: int = 1,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._clock = clock
        self._began_at = clock()
        given = {name: value.decode("latin-1") for name, value in headers}
        traced = _TRACEPARENT.fullmatch(given.get(b"traceparent", ""))
        named = _REQUEST_ID.fullmatch(given.get(REQUEST_ID.encode(), ""))
        self._line = Line(
            model,
            choices=choices,
            trace_id=traced["trace_id"] if traced else None,
            request_id=named[0] if named else None,
        )

    def __repr__(self) -> str:
        return f"<AnswerRecord {self._line!r}>"

    def admitted(self) -> None:
        """Note that a choice has left the queue; the first one counts."""
        if self._line.queue_ms is None:
            self._line.queue_ms = self._elapsed_ms()

    def text(self) -> None:
        """Note that there is text; the first counts."""
        if self._line.first_text_ms is None:
            self._line.first_text_ms = self._elapsed_ms()

    def finished(self, ends: Iterable[Ended]) -> None:
        """Take the counts of the choices that have ended."""
        ends = list(ends)
        if ends:
            self._line.prompt_tokens = ends[0].prompt_tokens
            self._line.cached_tokens = ends[0].cached_tokens
            self._line.completion_tokens = sum(end.completion_tokens for end in ends)

    def write(self, status: int, error: str | None = None) -> None:
        """Log the answer: one line of JSON, so that no name can forge a second one."""
        self._line.status = status
        self._line.error = error
        self._line.total_ms = self._elapsed_ms()
        log.info("answer %s", msgspec.json.encode(self._line).decode())

    def _elapsed_ms(self) -> int:
        return round((self._clock() - self._began_at) * _MS)
