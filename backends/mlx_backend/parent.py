"""The pipe to the process that started this one: how the start goes, and what becomes of models."""

import json
import os
import select
import threading
from collections import deque
from collections.abc import Mapping
from typing import Any

from backends.model_news import spell
from backends.wire import ModelLoading, ModelNews

# How many lines are kept for a parent that does not read; a model's progress counts as one.
_KEPT = 100


class Parent:
    """Tells whoever listens at `descriptor`, one JSON object a line; None: nobody does.

    Nothing here waits for the reader: what does not fit into the pipe is written by a thread of its
    own once there is room. Of a load's progress only the latest is kept then. May be called from
    any thread.
    """

    def __init__(self, descriptor: int | None) -> None:
        self._fd = descriptor
        self._lock = threading.Lock()
        self._kept: deque[tuple[bool, bytes]] = deque(maxlen=_KEPT)
        self._writing = False
        if descriptor is not None:
            os.set_inheritable(descriptor, False)  # noqa: FBT003  its only spelling
            os.set_blocking(descriptor, False)

    def tell(self, **line: object) -> None:
        """Write a line; a parent that has gone is no reason to fail."""
        self._send(line, passing=False)

    def tell_news(self, news: ModelNews) -> None:
        """Write what has become of a model."""
        self._send(spell(news), passing=isinstance(news, ModelLoading))

    def _send(self, line: Mapping[str, Any], *, passing: bool) -> None:
        data = json.dumps(line).encode() + b"\n"
        with self._lock:
            if passing and self._kept and self._kept[-1][0]:
                self._kept.pop()
            self._kept.append((passing, data))
            # While a thread writes, whoever comes queues behind it.
            if self._writing or self._flush():
                return
            threading.Thread(
                target=self._write_on, args=(self._fd,), name="parent", daemon=True
            ).start()
            self._writing = True

    def _write_on(self, fd: int) -> None:
        while True:
            select.select([], [fd], [])
            with self._lock:
                if self._flush():
                    self._writing = False
                    return

    def _flush(self) -> bool:
        """Write what the pipe takes; False where something is left."""
        while self._kept and self._fd is not None:
            passing, data = self._kept.popleft()
            try:
                written = os.write(self._fd, data)
            except BlockingIOError:
                written = 0
            except OSError:
                self._fd = None
                break
            if written < len(data):
                # A line that was begun must be ended, whatever comes after it.
                self._kept.appendleft((written == 0 and passing, data[written:]))
                return False
        self._kept.clear()
        return True
