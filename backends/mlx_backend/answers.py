"""One chat answer over HTTP: it asks the engine, and lets go of it whichever way it ends."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.responses import Response

from backends.mlx_backend.errors import ChatError
from backends.mlx_backend.generation import (
    Admitted,
    Begun,
    Event,
    Failed,
    Finished,
    Generation,
    Progress,
    Text,
)
from backends.mlx_backend.protocol import Wording

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from backends.mlx_backend.desk import Desk


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long a generation may take once it has left the queue: from step to step, and in all."""

    token_s: float = 30.0
    total_s: float = 3600.0


class ClientGone(Exception):
    """The client closed its connection."""


class Inbox:
    """What the engine says of one generation, read on the event loop.

    `post` may be called from any thread. `read` raises ChatError for a generation that failed or
    passed a deadline, and ClientGone.
    """

    def __init__(self, deadlines: Deadlines) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()
        self._deadlines = deadlines
        self._ends_at: float | None = None

    def post(self, event: Event | None) -> None:
        """Add an event; None stands for a client that has gone."""
        # The loop is closed when the process stops before a long step has ended.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    async def read(self) -> Text | Finished:
        """Return the next piece of the answer, or its end."""
        while True:
            event = await self._next()
            match event:
                case None:
                    raise ClientGone
                case Failed(error=error):
                    raise error
                case Admitted():
                    self._ends_at = self._loop.time() + self._deadlines.total_s
                case Begun() | Progress():
                    pass
                case _:
                    return event

    async def _next(self) -> Event | None:
        if self._ends_at is None:
            # Queued, or a model is being loaded: the router's deadlines apply.
            return await self._events.get()
        step_ends_at = self._loop.time() + self._deadlines.token_s
        try:
            async with asyncio.timeout_at(min(step_ends_at, self._ends_at)):
                return await self._events.get()
        except TimeoutError:
            passed = (
                f"{self._deadlines.total_s:g} s in all"
                if self._ends_at <= step_ends_at
                else f"{self._deadlines.token_s:g} s without a step"
            )
            text = f"the generation passed its deadline of {passed}"
            raise ChatError("generation_failed", text) from None


class ChatAnswer(Response):
    """The answer to one chat request, streamed or whole.

    The status line is held until the first text, so that whatever goes wrong before it has a
    status of its own. The engine is told to stop the moment the client is gone, streaming or not.
    """

    def __init__(
        self,
        desk: "Desk",
        generation: Generation,
        wording: Wording,
        *,
        stream: bool,
        deadlines: Deadlines,
    ) -> None:
        super().__init__()
        self._desk = desk
        self._generation = generation
        self._wording = wording
        self._stream = stream
        self._deadlines = deadlines

    async def __call__(self, _scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Generate and send; ChatError before the first byte is left to the caller."""
        inbox = Inbox(self._deadlines)
        ticket = self._desk.submit(self._generation, inbox.post)
        # Owned by this call: ended and awaited below.
        watcher = asyncio.create_task(_watch(receive, inbox))  # noqa: TID251  see above
        try:
            if self._stream:
                await self._send_stream(inbox, send)
            else:
                await self._send_whole(inbox, send)
        except ClientGone:
            pass
        finally:
            self._desk.cancel(ticket)
            watcher.cancel()
            await asyncio.wait({watcher})

    async def _send_whole(self, inbox: Inbox, send: "Send") -> None:
        pieces = []
        while isinstance(event := await inbox.read(), Text):
            pieces.append(event.text)
        body = self._wording.completion("".join(pieces), event)
        length = [(b"content-length", b"%d" % len(body))]
        await _start(send, b"application/json", length)
        await send({"type": "http.response.body", "body": body})

    async def _send_stream(self, inbox: Inbox, send: "Send") -> None:
        event = await inbox.read()
        await _start(send, b"text/event-stream", [(b"cache-control", b"no-cache")])
        await _send_more(send, self._wording.role())
        try:
            while isinstance(event, Text):
                await _send_more(send, self._wording.text(event.text))
                event = await inbox.read()
            last = self._wording.end(event)
        except ChatError as error:
            last = self._wording.error(error)
        await send({"type": "http.response.body", "body": last})


async def _start(send: "Send", kind: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    headers = [(b"content-type", kind), *headers]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def _send_more(send: "Send", body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def _watch(receive: "Receive", inbox: Inbox) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    inbox.post(None)
