"""The router's ends of a child's pipes, driven by the event loop's readiness.

Neither end ever blocks the loop, and neither knows lines: `asyncio`'s `readline` breaks on a line
over its limit. Both start and close synchronously, so that no cancellation falls in between.
"""

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

_CHUNK = 65536


class PipeReader:
    """Hands each chunk of a pipe to `on_chunk` as it arrives, and b"" once at its end."""

    def __init__(self, fd: int, on_chunk: Callable[[bytes], None]) -> None:
        self._fd = fd
        self._on_chunk = on_chunk
        self._open = True
        os.set_blocking(fd, False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(fd, self._read)

    def _read(self) -> None:
        try:
            chunk = os.read(self._fd, _CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        if not chunk:
            self.close()
        self._on_chunk(chunk)

    def close(self) -> None:
        """Stop reading; whoever still writes gets SIGPIPE."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._fd)
            os.close(self._fd)


class PipeWriter:
    """Writes to a pipe without waiting; what does not fit is kept until there is room."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._kept = bytearray()
        self._open = True
        os.set_blocking(fd, False)
        self._loop = asyncio.get_running_loop()

    def write(self, data: bytes) -> None:
        """Send bytes in order; nobody at the other end is no error here, its own pipe tells."""
        if not self._open:
            return
        if not self._kept:
            self._loop.add_writer(self._fd, self._flush)
        self._kept += data
        self._flush()

    def _flush(self) -> None:
        try:
            del self._kept[: os.write(self._fd, self._kept)]
        except (BlockingIOError, InterruptedError):
            return
        except BrokenPipeError:
            self.close()
            return
        if not self._kept:
            self._loop.remove_writer(self._fd)

    def close(self) -> None:
        """Let the reader see the end."""
        if self._open:
            self._open = False
            self._loop.remove_writer(self._fd)
            os.close(self._fd)


class JsonLines:
    """Cuts chunks into JSON objects, one a line; what is none of that, or too long, is skipped."""

    def __init__(self, limit: int = 65536) -> None:
        self._limit = limit
        self._rest = b""

    def feed(self, chunk: bytes) -> Iterator[dict[str, Any]]:
        """Yield the objects that are complete now."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > self._limit:
            self._rest = b""
        for line in lines:
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(value, dict):
                yield value
