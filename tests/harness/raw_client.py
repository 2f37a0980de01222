"""RC: a client on a raw socket that may leave, half-close or reset when a test says so."""

import asyncio
import json
import socket
import struct
from types import TracebackType
from typing import Any, Self


class RawClient:
    """One connection to a server on this machine.

    `receive_buffer` is the kernel's for this connection, in bytes; None leaves it to the kernel.
    """

    def __init__(self, port: int, *, receive_buffer: int | None = None) -> None:
        self._port = port
        self._receive_buffer = receive_buffer

    async def __aenter__(self) -> Self:
        raw = socket.socket()
        raw.setblocking(False)
        if self._receive_buffer is not None:
            # Before the connection is made: the window is agreed upon then.
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        try:
            await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", self._port))
        except BaseException:
            raw.close()
            raise
        self._reader, self._writer = await asyncio.open_connection(sock=raw)
        return self

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._writer.write(data)
        await self._writer.drain()

    async def post(self, path: str, body: Any, **headers: str) -> None:
        """Send a POST with a JSON body and the usual headers."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        told = {
            "host": f"127.0.0.1:{self._port}",
            "content-type": "application/json",
            "content-length": str(len(data)),
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in told.items())
        await self.send(f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + data)

    async def head(self) -> tuple[int, dict[str, str]]:
        """Return the status and headers of the answer."""
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status, *lines = head.split("\r\n")[:-2]
        pairs = (line.split(":", 1) for line in lines)
        return int(status.split(" ")[1]), {name.lower(): value.strip() for name, value in pairs}

    async def chunk(self) -> bytes:
        """Return one chunk of a chunked body; empty at its end."""
        size = int(await self._reader.readuntil(b"\r\n"), 16)
        return (await self._reader.readexactly(size + 2))[:-2]

    async def body(self, headers: dict[str, str]) -> bytes:
        """Return the rest of the answer, by its headers."""
        if "content-length" in headers:
            return await self._reader.readexactly(int(headers["content-length"]))
        return b"".join([chunk async for chunk in self._chunks()])

    async def _chunks(self) -> Any:
        while chunk := await self.chunk():
            yield chunk

    async def rest(self) -> bytes:
        """Return everything until the server closes the connection."""
        return await self._reader.read()

    async def dribble(self, every_s: float) -> bytes:
        """Send a byte now and then until the server closes; return what it said until then."""
        rest = asyncio.create_task(self.rest())
        try:
            while not rest.done():
                await self.send(b"a")
                await asyncio.wait([rest], timeout=every_s)
        except ConnectionError:
            pass  # closed between two bytes
        return await rest

    def stop_reading(self) -> None:
        """Leave what comes from now on in the kernel."""
        transport: asyncio.ReadTransport = self._writer.transport  # type: ignore[assignment]
        transport.pause_reading()

    async def rest_or_reset(self) -> bytes:
        """Return everything until the server closes the connection, in whichever way."""
        received = b""
        try:
            while piece := await self._reader.read(1 << 16):
                received += piece
        except ConnectionError:
            pass
        return received

    def reset(self) -> None:
        """Leave with a RST."""
        raw: socket.socket = self._writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    def half_close(self) -> None:
        """Say that nothing more will be sent."""
        self._writer.write_eof()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.transport.abort()
        # One turn for the transport to close its socket.
        await asyncio.sleep(0)
