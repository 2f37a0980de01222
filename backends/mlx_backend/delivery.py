"""The way of events from the MLX thread to the event loop: all of a step in one wake-up."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


class Delivery:
    """Has things done on the event loop, in the order in which any thread posted them.

    What a thread posts `together` waits until it has posted all of it: waking the loop costs as
    much as an event, and a loop that wakes in the middle of a step takes the interpreter's lock
    from the thread that the device waits for.
    """

    def __init__(self) -> None:
        self._posted: deque[Callable[[], None]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        # The thread whose posts wait.
        self._holder: int | None = None

    def __repr__(self) -> str:
        return f"<Delivery posted={len(self._posted)} held={self._holder is not None}>"

    def open(self) -> None:
        """Deliver on the loop that runs here from now on; before that everything waits."""
        self._loop = asyncio.get_running_loop()

    def post(self, deliver: Callable[[], None]) -> None:
        """Have this called on the event loop; may be called on any thread."""
        self._posted.append(deliver)
        if self._holder != threading.get_ident():
            self._wake()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Hold what this thread posts, and then wake the loop once; one thread at a time may."""
        self._holder = threading.get_ident()
        try:
            yield
        finally:
            self._holder = None
            if self._posted:
                self._wake()

    def _wake(self) -> None:
        # The loop is closed when the process stops before a long step has ended.
        with suppress(RuntimeError):
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        while self._posted:
            self._posted.popleft()()
