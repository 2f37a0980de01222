"""A streamed answer as its client sees it: when its first token came, and how many came at all."""

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self, cast

import httptools

from bench.target import Way

_DATA = b"data: "
_LAST = b"[DONE]"


class AnswerFailed(Exception):
    """A request was refused, its stream was cut off or came too late; the text says which."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. Seconds count from `sent_ns`, a time of the system's performance counter."""

    sent_ns: int
    first_s: float
    whole_s: float
    prompt_tokens: int
    tokens: int
    text: str


class Stream(asyncio.Protocol):
    """One request on a connection of its own; `close` is what a client does that has had enough."""

    def __init__(self, request: bytes) -> None:
        loop = asyncio.get_running_loop()
        self.first: asyncio.Future[None] = loop.create_future()
        self.answer: asyncio.Future[Answer] = loop.create_future()
        self._request = request
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._rest = b""
        self._first_ns = 0

    @classmethod
    async def open(cls, way: Way, body: bytes, priority: int | None = None) -> Self:
        """Connect and ask; AnswerFailed where nobody listens."""
        head = f"POST {way.path} HTTP/1.1\r\nhost: 127.0.0.1:{way.port}\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        head += "" if priority is None else f"x-priority: {priority}\r\n"
        request = f"{head}\r\n".encode() + body
        loop = asyncio.get_running_loop()
        try:
            _, stream = await loop.create_connection(lambda: cls(request), "127.0.0.1", way.port)
        except OSError as error:
            raise AnswerFailed(f"no connection to port {way.port}: {error}") from error
        return stream

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask."""
        self._transport = cast("asyncio.Transport", transport)
        self._sent_ns = time.perf_counter_ns()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Read on."""
        self._parser.feed_data(data)

    def on_body(self, data: bytes) -> None:
        """Look for the first token; what comes after it is read when all of it is there."""
        self._body.append(data)
        if self._first_ns:
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        if any(map(_text, _events(lines))):
            self._first_ns = time.perf_counter_ns()
            self.first.set_result(None)

    def on_message_complete(self) -> None:
        """Take the answer apart."""
        ended_ns = time.perf_counter_ns()
        if self.answer.done():
            return
        body = b"".join(self._body)
        events = list(_events(body.split(b"\n")))
        usage = next((event["usage"] for event in reversed(events) if event.get("usage")), None)
        status = self._parser.get_status_code()
        if status != 200 or usage is None:
            self._fail(f"an answer with status {status} was no whole stream: {body[-300:]!r}")
            return
        if not self.first.done():
            # An answer without a word: that there is none is known when it ends.
            self._first_ns = ended_ns
            self.first.set_result(None)
        self.answer.set_result(
            Answer(
                self._sent_ns,
                (self._first_ns - self._sent_ns) / 1e9,
                (ended_ns - self._sent_ns) / 1e9,
                usage["prompt_tokens"],
                usage["completion_tokens"],
                "".join(map(_text, events)),
            )
        )
        self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        """Take a connection that ends before its answer for a failure."""
        self._fail(f"a connection was lost: {error or 'it was closed'}")

    def _fail(self, reason: str) -> None:
        for waiting in (self.first, self.answer):
            if not waiting.done():
                waiting.set_exception(AnswerFailed(reason))
                # Nobody need have waited for it.
                waiting.exception()
        self._transport.close()

    def close(self) -> None:
        """Hear no more of it."""
        self._transport.abort()


async def ask(way: Way, body: bytes, priority: int | None = None) -> Answer:
    """Ask, and return the whole answer; AnswerFailed without one."""
    stream = await Stream.open(way, body, priority)
    try:
        return await stream.answer
    finally:
        stream.close()


def _events(lines: list[bytes]) -> Iterator[dict[str, Any]]:
    for line in lines:
        data = line.strip().removeprefix(_DATA)
        if data.startswith(b"{") and data != _LAST:
            yield json.loads(data)


def _text(event: dict[str, Any]) -> str:
    return "".join(
        choice["delta"].get("content") or "" for choice in event.get("choices") or () if choice
    )
