"""Those who wait for an answer of a process's owner: for a lease, or for a state to be reached."""

import asyncio
from collections.abc import Callable
from typing import Literal

SHUTTING_DOWN = "shutting_down", "the router is shutting down: ask again when it is back"


class BackendUnavailable(Exception):
    """The process cannot serve: a code of `backends.wire`, and what to do about it."""

    def __init__(self, code: str, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s


class Callers:
    """Two queues of futures; only the owner answers. `wake` is called when somebody comes or goes.

    A refusal is a future's result, not its exception: one that nobody fetches is no warning, and
    each caller raises an exception of its own.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._leases: set[asyncio.Future[int | BackendUnavailable]] = set()
        self._states: dict[asyncio.Future[BackendUnavailable | None], str] = {}
        self._closed = False

    def __len__(self) -> int:
        return len(self._leases)

    async def wait_lease(self, give_back: Callable[[int], None]) -> int:
        """Wait for a granted lease's generation; BackendUnavailable when it is refused."""
        self._check_open()
        future: asyncio.Future[int | BackendUnavailable]
        future = asyncio.get_running_loop().create_future()
        self._leases.add(future)
        self._wake()
        try:
            answer = await future
        except asyncio.CancelledError:
            self._leases.discard(future)
            self._wake()
            # The grant and the cancellation may fall into the same turn of the loop.
            granted = future.result() if future.done() and not future.cancelled() else None
            if isinstance(granted, int):
                give_back(granted)
            raise
        if isinstance(answer, BackendUnavailable):
            raise answer
        return answer

    async def wait_state(self, what: Literal["ready", "gone"]) -> None:
        """Wait until it is so; BackendUnavailable when it will not come by itself."""
        self._check_open()
        future: asyncio.Future[BackendUnavailable | None]
        future = asyncio.get_running_loop().create_future()
        self._states[future] = what
        self._wake()
        try:
            failure = await future
        finally:
            self._states.pop(future, None)
        if failure is not None:
            raise failure

    def grant(self, generation: int) -> int:
        """Give everybody who waits a lease; return how many that were."""
        count = 0
        for future in self._leases:
            if not future.done():
                future.set_result(generation)
                count += 1
        self._leases.clear()
        return count

    def refuse(self, code: str, message: str, retry_after_s: float | None = None) -> None:
        """Refuse everybody who waits for a lease."""
        for future in self._leases:
            if not future.done():
                future.set_result(BackendUnavailable(code, message, retry_after_s))
        self._leases.clear()

    def tell(self, what: str, refusal: tuple[str, str] | None = None) -> None:
        """Tell those who wait for a state that it is reached, or why it will not be."""
        for future, wanted in self._states.items():
            if wanted == what and not future.done():
                future.set_result(BackendUnavailable(*refusal) if refusal else None)

    def close(self) -> None:
        """Nobody will answer any more: whoever waits or comes later is told so."""
        self._closed = True
        self.refuse(*SHUTTING_DOWN)
        self.tell("gone")
        self.tell("ready", SHUTTING_DOWN)

    def _check_open(self) -> None:
        if self._closed:
            raise BackendUnavailable(*SHUTTING_DOWN)
