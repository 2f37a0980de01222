"""The last leg: an open stream flows to the client, whole events only, and never ends in a lie."""

from collections.abc import Awaitable, Iterable, Sequence
from contextlib import suppress

from router.answer import OpenStream
from router.deadline import Deadline, Deadlines, Sweeper
from router.dialects.translation import Translation
from router.envelope import error_frame
from router.errors import RouteFailed, StreamFailed
from router.pace import Pace, truncated
from router.request import Send
from router.sse import Ending, JsonStream, payload_of
from router.upstream import Answer
from router.waiting import NOTHING

# How long after its last event a provider may take to end its body.
_LET_END_S = 0.05
_MAX_TEXT = 500
HeaderList = Iterable[tuple[bytes, bytes]]


async def pump(
    stream: OpenStream, send: Send, headers: HeaderList, deadlines: Deadlines, sweeper: Sweeper
) -> StreamFailed | None:
    """Send the stream to the client as its events arrive; return what broke it, or None.

    A stream that breaks ends in an error frame, and never in `[DONE]`.
    """
    await send({"type": "http.response.start", "status": 200, "headers": list(headers)})
    await _send(send, stream.first)
    try:
        with Deadline(sweeper) as deadline:
            await _flow(stream, EventSink(stream, send, deadlines, deadline))
    except StreamFailed as error:
        await send({"type": "http.response.body", "body": _frame(stream, error)})
        # The frames that it went through hold it too.
        return error.with_traceback(None)
    await send({"type": "http.response.body", "body": b"", "more_body": False})
    await _let_end(stream.answer, sweeper)
    return None


async def _flow(stream: OpenStream, sink: "EventSink") -> None:
    """Let the stream flow until it has ended as it should.

    Raises StreamFailed when it breaks off, stalls, never ends, or says what is not JSON.
    """
    await sink.pass_on(stream.pending)
    try:
        await stream.answer.flow(sink)
    except RouteFailed as error:
        raise truncated() from error
    if sink.failure is not None:
        raise sink.failure
    rest = stream.splitter.rest
    if not sink.over and (stream.state.ending is Ending.OPEN or rest.strip()):
        raise truncated()
    if stream.translation is not None:
        await _send(sink.send, [stream.translation.finish()])
    elif rest and not sink.over:
        # The other half of a last CRLF.
        await _send(sink.send, [rest])


def _frame(stream: OpenStream, error: StreamFailed) -> bytes:
    return error_frame(error, stream.dialect, stream.number)


async def _let_end(answer: Answer, sweeper: Sweeper) -> None:
    """Let a provider that has said everything end its body too, so that its connection is kept.

    Most send the last chunk in a packet of its own, after `[DONE]`; not to wait for it would cost
    the next request a new connection.
    """
    with suppress(RouteFailed, TimeoutError), Deadline(sweeper) as deadline:
        deadline.expect(_LET_END_S, TimeoutError)
        while await answer.read():
            pass


class EventSink(Pace):
    """Takes a provider's bytes and passes whole events on, as long as they are good.

    Only events with data are signs of life: comments pass. `failure` is what a bad event was.
    """

    def __init__(
        self, stream: OpenStream, send: Send, deadlines: Deadlines, deadline: Deadline
    ) -> None:
        super().__init__(deadlines, deadline)
        self.failure: StreamFailed | None = None
        self._state = stream.state
        self._splitter = stream.splitter
        self._translation = stream.translation
        self.send = send

    def take(self, data: bytes) -> Awaitable[None]:
        """Pass on what `data` completes; return NOTHING, or the wait for a slow client."""
        try:
            events = self._splitter.feed(data)
        except StreamFailed as error:
            self._fail(error)
            return NOTHING
        return self.pass_on(events) if events else NOTHING

    def pass_on(self, events: Sequence[bytes]) -> Awaitable[None]:
        """Send events up to the last one that counts."""
        state, translation, had_data, good = self._state, self._translation, False, []
        try:
            for event in events:
                had_data = state.observe_event(event) or had_data
                if state.told_usage_alone and state.withholds_usage:
                    continue
                good.append(event if translation is None else _put(event, state, translation))
                if state.said_done or state.said_error:
                    self.over = True
                    break
        except StreamFailed as error:
            # What was whole before a bad event is the client's.
            self._fail(error)
        if had_data:
            self.expect_more()
        return self.patient(_send(self.send, good))

    def _fail(self, failure: StreamFailed) -> None:
        self.failure = failure
        self.over = True


def _put(event: bytes, state: JsonStream, translation: Translation) -> bytes:
    """Return what an event means in the client's protocol; comments mean the same in each."""
    chunk = state.chunk
    if payload_of(event) is None:
        return event
    if chunk is None:
        return b""
    if state.said_error:
        raise StreamFailed("upstream_invalid_frame", _words_of(chunk["error"]), quotes=True)
    return translation.feed(chunk)


def _words_of(error: object) -> str:
    """Return what to say of an error in whose place there should have been a part of the answer."""
    text = error.get("message") if isinstance(error, dict) else error
    said = f": {text[:_MAX_TEXT]}" if isinstance(text, str) else "."
    return f"The provider ended its answer with an error{said}"


def _send(send: Send, events: Sequence[bytes]) -> Awaitable[None]:
    """Send whole events as one piece; NOTHING is left to wait for while the client keeps up."""
    if not events:
        return NOTHING
    body = events[0] if len(events) == 1 else b"".join(events)
    if not body:
        # What was translated may come to nothing.
        return NOTHING
    return send({"type": "http.response.body", "body": body, "more_body": True})
