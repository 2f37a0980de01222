"""The last leg: an open stream flows to the client, whole events only, and never ends in a lie."""

import time
from collections.abc import Awaitable, Iterable
from contextlib import suppress

from router.answer import OpenStream
from router.deadline import Deadline, Deadlines, Sweeper
from router.errors import RouteFailed, StreamFailed
from router.request import Send
from router.sse import ChatStream, Ending
from router.upstream import Answer

# How long after its last event a provider may take to end its body.
_LET_END_S = 0.05

HeaderList = Iterable[tuple[bytes, bytes]]


async def pump(
    stream: OpenStream, send: Send, headers: HeaderList, deadlines: Deadlines, sweeper: Sweeper
) -> StreamFailed | None:
    """Send the stream to the client as its events arrive; return what broke it, or None.

    A stream that breaks ends in an error frame, and never in `[DONE]`. Comments pass but are no
    sign of life.
    """
    await send({"type": "http.response.start", "status": 200, "headers": list(headers)})
    failure: StreamFailed | None = None
    try:
        await _send(send, stream.first)
        with Deadline(sweeper) as deadline:
            await _flow(stream, send, deadlines, deadline)
    except StreamFailed as error:
        failure = error
        await _send(send, [error.frame()])
    await send({"type": "http.response.body", "body": b"", "more_body": False})
    if failure is None:
        await _let_end(stream.answer, sweeper)
    return failure


async def _flow(stream: OpenStream, send: Send, deadlines: Deadlines, deadline: Deadline) -> None:
    """Pass events on until the stream has ended as it should.

    Raises StreamFailed when it breaks off, stalls, never ends, or says what is not JSON.
    """
    state, splitter = stream.state, stream.splitter
    over_at = time.monotonic() + deadlines.total_s
    events = list(stream.pending)
    had_data = True
    while True:
        had_data = await _pass_on(events, state, send) or had_data
        if state.said_done or state.said_error:
            return
        if had_data:
            # Comments do not count: only data gives a provider further time.
            had_data = False
            left_s = over_at - time.monotonic()
            if left_s < deadlines.idle_s:
                deadline.expect(max(left_s, 0), lambda: _too_long(deadlines))
            else:
                deadline.expect(deadlines.idle_s, lambda: _idle(deadlines))
        try:
            data = await stream.answer.read()
        except RouteFailed as error:
            raise _truncated() from error
        if not data:
            break
        events = splitter.feed(data)
        del data
    if state.ending is not Ending.COMPLETE or splitter.rest.strip():
        raise _truncated()
    if rest := splitter.rest:
        # The other half of a last CRLF.
        await _send(send, [rest])


async def _pass_on(events: list[bytes], state: ChatStream, send: Send) -> bool:
    """Send events up to the last one that counts; return whether any of them had data.

    `events` is emptied: while a slow client makes us wait, only its connection holds what it is
    sent.
    """
    good: list[bytes] = []
    had_data = False
    try:
        for event in events:
            had_data = state.observe_event(event) or had_data
            good.append(event)
            if state.said_done or state.said_error:
                break
    finally:
        # What was whole before a bad event is the client's.
        if good:
            sent = _send(send, good)
            good.clear()
            events.clear()
            await sent
    return had_data


async def _let_end(answer: Answer, sweeper: Sweeper) -> None:
    """Let a provider that has said everything end its body too, so that its connection is kept.

    Most send the last chunk in a packet of its own, after `[DONE]`; not to wait for it would cost
    the next request a new connection.
    """
    with suppress(RouteFailed, TimeoutError), Deadline(sweeper) as deadline:
        deadline.expect(_LET_END_S, TimeoutError)
        while await answer.read():
            pass


def _truncated() -> StreamFailed:
    return StreamFailed(
        "upstream_truncated", "The provider's answer broke off before it was complete."
    )


def _idle(deadlines: Deadlines) -> StreamFailed:
    return StreamFailed(
        "upstream_idle_timeout", f"The provider sent nothing for {deadlines.idle_s:g} s."
    )


def _too_long(deadlines: Deadlines) -> StreamFailed:
    return StreamFailed(
        "upstream_total_timeout", f"The answer was not complete within {deadlines.total_s:g} s."
    )


def _send(send: Send, events: Iterable[bytes]) -> Awaitable[None]:
    """Send events at once; what is returned is over when more may be sent."""
    return send({"type": "http.response.body", "body": b"".join(events), "more_body": True})
