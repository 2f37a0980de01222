"""The backend's own account of its rows, asked over one connection as often as it answers."""

import asyncio
import json
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from bench.mlx.stream import AnswerFailed

_REQUEST = b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
_LENGTH = b"content-length:"


class Health:
    """GET /health on a kept connection; an async context manager."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._writer.close()

    async def now(self) -> dict[str, Any]:
        """Return what the backend says of itself."""
        self._writer.write(_REQUEST)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = next(line for line in head.split(b"\r\n") if line.startswith(_LENGTH))
        found = await self._reader.readexactly(int(length.removeprefix(_LENGTH)))
        status: dict[str, Any] = json.loads(found)
        return status

    async def until(self, is_so: Callable[[dict[str, Any]], bool], within_s: float) -> None:
        """Ask again and again until it is so; AnswerFailed when it does not come to that."""
        try:
            async with asyncio.timeout(within_s):
                while not is_so(status := await self.now()):
                    pass
        except TimeoutError:
            raise AnswerFailed(f"it did not come to that in {within_s:.0f} s: {status}") from None


def in_flight(status: dict[str, Any]) -> int:
    """Return how many generations run, are paused or wait."""
    return int(status["active"] + status["queue"])
