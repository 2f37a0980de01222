"""What the MLX thread did and when, as a file that Perfetto and chrome://tracing show."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


class Trace:
    """Steps as complete events in Chrome's trace format, one a line; times in microseconds.

    See "Trace Event Format" of the Chromium project. The file is a JSON array that is never
    closed, which the format allows, so that it can be read while the process runs.
    """

    def __init__(self, path: Path) -> None:
        self._file: TextIO = path.open("w", encoding="utf-8", buffering=1)
        self._file.write("[\n")

    @contextmanager
    def step(self, name: str, **details: object) -> Iterator[None]:
        """Write what happens inside as one event."""
        begun = time.perf_counter_ns()
        try:
            yield
        finally:
            took = time.perf_counter_ns() - begun
            event = {
                "name": name,
                "ph": "X",
                "ts": begun / 1000,
                "dur": took / 1000,
                "pid": 1,
                "tid": 1,
                "args": details,
            }
            self._file.write(json.dumps(event) + ",\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()
