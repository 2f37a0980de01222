"""FM: a provider on a raw socket that does exactly what a test's script says."""

import asyncio
import json
import os
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

CHAT = (
    b'{"id":"c1","object":"chat.completion","choices":[{"index":0,"finish_reason":"stop",'
    b'"message":{"role":"assistant","content":"hi"}}]}'
)


class Conversation:
    """One request that arrived, and the ways to answer it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.target = ""
        self.headers: dict[str, str] = {}
        self.body = b""

    async def receive(self) -> bool:
        """Read one request; False when the client has closed the connection instead."""
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return False
        request, *lines = head.decode("latin-1").split("\r\n")[:-2]
        self.target = request.split(" ")[1]
        pairs = (line.split(":", 1) for line in lines)
        self.headers = {name.lower(): value.strip() for name, value in pairs}
        self.body = await self._reader.readexactly(int(self.headers.get("content-length", "0")))
        return True

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._writer.write(data)
        await self._writer.drain()
        # drain() gives the loop no turn when there is nothing to wait for, and over TLS it does not
        # notice that the connection is gone before it had one.
        await asyncio.sleep(0)

    async def answer(
        self, body: bytes = CHAT, status: int = 200, kind: str = "application/json", **more: str
    ) -> None:
        """Send a whole answer."""
        lines = [f"HTTP/1.1 {status} X", f"content-type: {kind}", f"content-length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in more.items()]
        await self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    async def begin_stream(self) -> None:
        """Send the head of an event stream."""
        await self.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )

    async def event(self, data: bytes) -> None:
        """Send one chunk of a stream."""
        await self.send(b"%x\r\n%s\r\n" % (len(data), data))

    async def end_stream(self) -> None:
        """End a stream as HTTP wants it ended."""
        await self.send(b"0\r\n\r\n")

    async def asked(self) -> None:
        """Return when a request has begun to arrive, without reading on."""
        await self._reader.read(1)

    async def left(self) -> None:
        """Return when the client closes the connection."""
        try:
            while await self._reader.read(65536):
                pass
        except ConnectionError:
            pass

    @property
    def kernel_socket(self) -> socket.socket:
        """The socket beneath, whatever loop and TLS do above it; the caller closes this copy."""
        raw = self._writer.get_extra_info("socket")
        return socket.socket(fileno=os.dup(raw.fileno()))

    def hang_up(self) -> None:
        """End the connection in the kernel, now, before any event loop has its next turn."""
        with self.kernel_socket as raw:
            raw.shutdown(socket.SHUT_RDWR)

    def reset(self) -> None:
        """Break the connection with a RST."""
        with self.kernel_socket as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()


Script = Callable[[Conversation], Awaitable[None]]


async def hello(conversation: Conversation) -> None:
    """Answer as a provider in good health does."""
    await conversation.answer()


class ScriptedUpstream:
    """The provider: runs `script` for each request and remembers the conversations.

    With `tls` it speaks TLS. Without `reads` the script begins as soon as somebody connects, before
    anything was read.
    """

    def __init__(
        self,
        script: Script = hello,
        *,
        tls: ssl.SSLContext | None = None,
        reads: bool = True,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.script = script
        self._tls = tls
        self._reads = reads
        self._address = (host, port)
        self.seen: list[Conversation] = []
        self.connections = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def open_connections(self) -> int:
        """How many connections have not ended yet."""
        return len(self._tasks)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, *self._address, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}/v1"
        return self

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while True:
                conversation = Conversation(reader, writer)
                if self._reads and not await conversation.receive():
                    break
                self.seen.append(conversation)
                await self.script(conversation)
                if writer.is_closing() or not self._reads:
                    break
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            self._writers.discard(writer)
            writer.close()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for writer in self._writers:
            writer.transport.abort()
        await self._server.wait_closed()
