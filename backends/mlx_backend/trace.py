"""What the MLX thread did and when, as a file that Perfetto and chrome://tracing show."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

# Threads of the trace: what the MLX thread does, and what is asked of it.
_MLX, _ASKED = 1, 2


class Trace:
    """Steps as complete events in Chrome's trace format, one a line; times in microseconds.

    See "Trace Event Format" of the Chromium project. The file is a JSON array that is never
    closed, which the format allows, so that it can be read while the process runs. May be written
    from any thread.
    """

    def __init__(self, path: Path) -> None:
        self._file: TextIO = path.open("w", encoding="utf-8", buffering=1)
        self._lock = threading.Lock()
        self._file.write("[\n")

    @contextmanager
    def step(self, name: str, **details: object) -> Iterator[None]:
        """Write what happens inside as one event."""
        begun = time.perf_counter_ns()
        try:
            yield
        finally:
            took = time.perf_counter_ns() - begun
            self._write(name, "X", begun, _MLX, details, dur=took / 1000)

    def moment(self, name: str, **details: object) -> None:
        """Write that something came."""
        self._write(name, "i", time.perf_counter_ns(), _ASKED, details, s="t")

    def _write(
        self, name: str, phase: str, at_ns: int, thread: int, details: object, **more: object
    ) -> None:
        event = {"name": name, "ph": phase, "ts": at_ns / 1000, "pid": 1, "tid": thread, **more}
        with self._lock:
            if not self._file.closed:
                self._file.write(json.dumps({**event, "args": details}) + ",\n")

    def close(self) -> None:
        """Close the file; what comes later is not written."""
        with self._lock:
            self._file.close()
