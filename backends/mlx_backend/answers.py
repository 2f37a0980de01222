"""One chat answer over HTTP: it asks the engine, and lets go of it whichever way it ends."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from starlette.responses import Response

from backends.mlx_backend.answer_record import AnswerRecord
from backends.mlx_backend.choice import Choice, Ended, Piece
from backends.mlx_backend.errors import ChatError
from backends.mlx_backend.generation import (
    Admitted,
    Begun,
    Event,
    Failed,
    Finished,
    Generation,
    Progress,
    Sink,
    Text,
)
from backends.mlx_backend.protocol import ChatRequest
from backends.mlx_backend.wording import Message, Wording

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

_OK = 200
# nginx's status for a client that did not wait for its answer; nobody reads it but the log.
_CLIENT_GONE = 499
_DEFECT: tuple[int, str | None] = 500, "internal_error"


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long a generation may take once it has left the queue: from step to step, and in all.

    `queue_s` is how long it may wait before that.
    """

    token_s: float = 30.0
    total_s: float = 3600.0
    queue_s: float | None = None


class Generator(Protocol):
    """What an answer needs of the engine; both may be called on the event loop."""

    def submit(self, generation: Generation, sink: Sink) -> int:
        """Queue a generation, and return its ticket; ChatError where it cannot be taken."""
        ...

    def cancel(self, ticket: int) -> None:
        """End a generation; nothing if it has ended."""
        ...


class ClientGone(Exception):
    """The client closed its connection."""


@dataclass(slots=True)
class _Clock:
    """When a choice's next step must be done, and when all of it, by the loop's time."""

    step_ends_at: float
    ends_at: float


class Inbox:
    """What the engine says of the choices of one answer, read on the event loop.

    Sinks, and `client_gone`, may be called from any thread. `read` raises ChatError for a choice
    that failed or passed a deadline, and ClientGone.
    """

    def __init__(self, deadlines: Deadlines) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[tuple[int, Event] | None] = asyncio.Queue()
        self._deadlines = deadlines
        # Of the choices that have left the queue: before that the router's deadlines apply.
        self._clocks: dict[int, _Clock] = {}

    def __repr__(self) -> str:
        return f"<Inbox running={sorted(self._clocks)} unread={self._events.qsize()}>"

    def sink(self, choice: int) -> Sink:
        """Return where the events of a choice go."""
        return partial(self._post_event, choice)

    def client_gone(self) -> None:
        """Nobody reads the answer any more."""
        self._post(None)

    def _post_event(self, choice: int, event: Event) -> None:
        self._post((choice, event))

    def _post(self, item: tuple[int, Event] | None) -> None:
        # The loop is closed when the process stops before a long step has ended.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._events.put_nowait, item)

    async def read(self) -> tuple[int, Admitted | Begun | Text | Finished]:
        """Return the next thing to know of a choice, and which one it is."""
        while True:
            item = await self._next()
            if item is None:
                raise ClientGone
            choice, event = item
            self._wind(choice, event)
            match event:
                case Failed(error=error):
                    raise error
                case Progress():
                    pass
                case _:
                    return choice, event

    def _wind(self, choice: int, event: Event) -> None:
        now = self._loop.time()
        if isinstance(event, Admitted):
            self._clocks[choice] = _Clock(now, now + self._deadlines.total_s)
        if isinstance(event, Finished):
            self._clocks.pop(choice, None)
        if choice in self._clocks:
            self._clocks[choice].step_ends_at = now + self._deadlines.token_s

    async def _next(self) -> tuple[int, Event] | None:
        try:
            async with asyncio.timeout_at(self._first_deadline()):
                return await self._events.get()
        except TimeoutError:
            now = self._loop.time()
            passed = (
                f"{self._deadlines.total_s:g} s in all"
                if any(clock.ends_at <= now for clock in self._clocks.values())
                else f"{self._deadlines.token_s:g} s without a step"
            )
            text = f"the generation passed its deadline of {passed}"
            raise ChatError("generation_failed", text) from None

    def _first_deadline(self) -> float | None:
        clocks = self._clocks.values()
        return min((min(clock.step_ends_at, clock.ends_at) for clock in clocks), default=None)


class ChatAnswer(Response):
    """The answer to one chat request, streamed or whole; one generation a choice.

    The status line is held until the first text, so that whatever goes wrong before it has a
    status of its own. The engine is told to stop the moment the client is gone, streaming or not.
    """

    def __init__(
        self,
        engine: Generator,
        chat: ChatRequest,
        generations: Sequence[Generation],
        deadlines: Deadlines,
    ) -> None:
        super().__init__()
        self._engine = engine
        self._chat = chat
        self._generations = generations
        self._deadlines = deadlines
        self._wording = Wording(
            chat.model,
            include_usage=chat.include_usage,
            logprobs=chat.sampling.top_logprobs is not None,
        )
        tools = chat.constraint is not None and bool(chat.constraint.tools)
        self._choices = [Choice(tools=tools, named=chat.named) for _ in generations]

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Generate and send; ChatError before the first byte is left to the caller."""
        record = AnswerRecord(self._chat.model, scope["headers"], choices=len(self._choices))
        # What remains where neither of the below happens: a defect, or a server that stops.
        status, code = _DEFECT
        try:
            failure = await self._answer(record, receive, send)
            status, code = _OK, failure.code if failure else None
        except ClientGone:
            status, code = _CLIENT_GONE, None
        except ChatError as error:
            status, code = error.status, error.code
            raise
        finally:
            record.finished(self._ends())
            record.write(status, code)

    async def _answer(
        self, record: AnswerRecord, receive: "Receive", send: "Send"
    ) -> ChatError | None:
        """Return what ended a stream that had begun, if anything did but its own end."""
        inbox = Inbox(self._deadlines)
        tickets: list[int] = []
        # Owned by this call: ended and awaited below.
        watcher = asyncio.create_task(_watch(receive, inbox))  # noqa: TID251  see above
        try:
            for choice, generation in enumerate(self._generations):
                tickets.append(self._engine.submit(generation, inbox.sink(choice)))
            if self._chat.stream:
                return await self._send_stream(inbox, record, send)
            await self._send_whole(inbox, record, send)
            return None
        finally:
            for ticket in tickets:
                self._engine.cancel(ticket)
            watcher.cancel()
            await asyncio.wait({watcher})

    async def _send_whole(self, inbox: Inbox, record: AnswerRecord, send: "Send") -> None:
        messages = [Message() for _ in self._choices]
        while not self._complete:
            choice, pieces = await self._read(inbox, record)
            for piece in pieces:
                messages[choice].add(piece)
        body = self._wording.completion(list(zip(messages, self._ends(), strict=True)))
        length = [(b"content-length", b"%d" % len(body))]
        await _start(send, b"application/json", length)
        await send({"type": "http.response.body", "body": body})

    async def _send_stream(
        self, inbox: Inbox, record: AnswerRecord, send: "Send"
    ) -> ChatError | None:
        spoken: set[int] = set()
        failure = None
        try:
            while not self._complete:
                choice, pieces = await self._read(inbox, record)
                begins = not spoken
                events = self._spell(choice, pieces, spoken)
                if events and begins:
                    await _start(send, b"text/event-stream", [(b"cache-control", b"no-cache")])
                if events:
                    await _send_more(send, events)
        except ChatError as error:
            if not spoken:
                raise
            failure = error
        last = self._wording.error(failure) if failure else self._wording.done(self._ends())
        await send({"type": "http.response.body", "body": last})
        return failure

    @property
    def _complete(self) -> bool:
        return all(choice.ended for choice in self._choices)

    def _ends(self) -> list[Ended]:
        return [choice.ended for choice in self._choices if choice.ended]

    async def _read(self, inbox: Inbox, record: AnswerRecord) -> tuple[int, list[Piece]]:
        index, event = await inbox.read()
        if isinstance(event, Admitted):
            record.admitted()
            return index, []
        pieces = self._choices[index].take(event)
        if pieces:
            record.text()
        return index, pieces

    def _spell(self, index: int, pieces: Sequence[Piece], spoken: set[int]) -> bytes:
        """Return the events of a choice's news; whose choice has spoken is kept in `spoken`."""
        end = self._choices[index].ended
        events = []
        if index not in spoken and (pieces or end):
            spoken.add(index)
            events.append(self._wording.role(index, pieces[0].delta if pieces else None))
        events += [self._wording.piece(index, piece) for piece in pieces]
        if end:
            events.append(self._wording.end(index, end))
        return b"".join(events)


async def _start(send: "Send", kind: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    headers = [(b"content-type", kind), *headers]
    await send({"type": "http.response.start", "status": _OK, "headers": headers})


async def _send_more(send: "Send", body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def _watch(receive: "Receive", inbox: Inbox) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    inbox.client_gone()
