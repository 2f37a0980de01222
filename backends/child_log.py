"""What a child says on stdout and stderr: into a bounded file, and a ring of its last lines.

The file is a copy, byte for byte; it is rotated once, so that it and its predecessor (`….1`) hold
at most `cap_bytes` each. The ring is for people: text, no control characters, long lines cut. A
full disk loses the copy, never the drain: a child whose pipe is full would stop.
"""

import contextlib
import logging
import os
import re
from collections import deque
from pathlib import Path

_LINE_BYTES = 2000
_RING_LINES = 200
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")

_log = logging.getLogger(__name__)


class _LineCutter:
    """Cuts one stream into lines of at most `_LINE_BYTES`, however long they are."""

    def __init__(self) -> None:
        self._head = bytearray()

    def feed(self, chunk: bytes) -> list[str]:
        """Return the lines that are complete now."""
        *ends, rest = chunk.split(b"\n")
        lines = []
        for end in ends:
            self._keep(end)
            lines.append(self.flush())
        self._keep(rest)
        return [line for line in lines if line]

    def flush(self) -> str:
        """Return what stands without a line's end, and begin anew."""
        text = self._head.decode(errors="replace")
        self._head.clear()
        return _CONTROL.sub("", text).strip()

    def _keep(self, piece: bytes) -> None:
        self._head += piece[: _LINE_BYTES - len(self._head)]


class ChildLog:
    """Takes both streams of a child, run after run; `open` before the first, `close` at the end."""

    def __init__(self, path: Path, cap_bytes: int = 50 << 20) -> None:
        self._path = path
        self._cap_bytes = cap_bytes
        self._fd: int | None = None
        self._size = 0
        self._ring: deque[str] = deque(maxlen=_RING_LINES)
        self._cutters = {False: _LineCutter(), True: _LineCutter()}
        self._last_error_line = ""

    def __repr__(self) -> str:
        return f"<ChildLog {self._path.name} {self._size} bytes, {len(self._ring)} lines>"

    @property
    def lines(self) -> list[str]:
        """The last lines of both streams, oldest first."""
        return list(self._ring)

    @property
    def last_error_line(self) -> str:
        """The last line of stderr in this run, finished or not; "" if there was none."""
        return self._last_error_line

    def begin_run(self) -> None:
        """Open the file if it is not, and forget the error of the run before."""
        self._last_error_line = ""
        if self._fd is None:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._open()
            except OSError as error:
                _log.warning("no log file for a child: %s", error)

    def end_run(self) -> None:
        """Take the unfinished lines as they stand."""
        for is_error, cutter in self._cutters.items():
            self._add([line] if (line := cutter.flush()) else [], is_error=is_error)

    def feed(self, chunk: bytes, *, is_error: bool) -> None:
        """Take a chunk of stdout, or of stderr."""
        self._add(self._cutters[is_error].feed(chunk), is_error=is_error)
        try:
            self._copy(memoryview(chunk))
        except OSError as error:
            _log.warning("a child's log file is given up: %s", error)
            self.close()

    def close(self) -> None:
        """Close the file; the ring stays."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            with contextlib.suppress(OSError):  # a full disk may say so only now
                os.close(fd)

    def _add(self, lines: list[str], *, is_error: bool) -> None:
        self._ring.extend(lines)
        if is_error and lines:
            self._last_error_line = lines[-1]

    def _copy(self, chunk: memoryview) -> None:
        while chunk and self._fd is not None:
            if self._size >= self._cap_bytes:
                self._rotate()
            room = self._cap_bytes - self._size
            written = os.write(self._fd, chunk[:room])
            self._size += written
            chunk = chunk[written:]

    def _rotate(self) -> None:
        self.close()
        self._path.replace(self._path.with_name(self._path.name + ".1"))
        self._open()

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(self._path, flags, 0o600)
        self._size = os.fstat(self._fd).st_size
