"""One chat answer over HTTP: it asks the engine, and lets go of it whichever way it ends."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from starlette.responses import Response

from backends.mlx_backend.answer_record import AnswerRecord
from backends.mlx_backend.choice import Choice, Ended, Piece
from backends.mlx_backend.delivery import Delivery
from backends.mlx_backend.errors import ChatError
from backends.mlx_backend.generation import Admitted, Generation, Sink
from backends.mlx_backend.inbox import ClientGone, Deadlines, Inbox, News
from backends.mlx_backend.protocol import ChatRequest
from backends.mlx_backend.wording import Message, Wording

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

_OK = 200
# nginx's status for a client that did not wait for its answer; nobody reads it but the log.
_CLIENT_GONE = 499
_DEFECT: tuple[int, str | None] = 500, "internal_error"


class Generator(Protocol):
    """What an answer needs of the engine; both may be called on the event loop."""

    def submit(self, generation: Generation, sink: Sink) -> int:
        """Queue a generation, and return its ticket; ChatError where it cannot be taken."""
        ...

    def cancel(self, ticket: int) -> None:
        """End a generation; nothing if it has ended."""
        ...


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
        delivery: Delivery,
    ) -> None:
        super().__init__()
        self._engine = engine
        self._delivery = delivery
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
        inbox = Inbox(self._deadlines, self._delivery)
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
            inbox.close()
            watcher.cancel()
            await asyncio.wait({watcher})

    async def _send_whole(self, inbox: Inbox, record: AnswerRecord, send: "Send") -> None:
        messages = [Message() for _ in self._choices]
        while not self._complete:
            for choice, event in await inbox.read():
                for piece in self._pieces(choice, event, record):
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
                begins = not spoken
                # What came while the client took what was before leaves in one write.
                events = b"".join(
                    self._spell(choice, self._pieces(choice, event, record), spoken)
                    for choice, event in await inbox.read()
                )
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

    def _pieces(self, index: int, event: News, record: AnswerRecord) -> list[Piece]:
        if isinstance(event, Admitted):
            record.admitted()
            return []
        pieces = self._choices[index].take(event)
        if pieces:
            record.text()
        return pieces

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
