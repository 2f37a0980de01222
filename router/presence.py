"""Work for a client goes on only while the client is there."""

import asyncio
from types import TracebackType
from typing import Any

from router.errors import ClientGone

Receive = Any


class ClientPresent:
    """Cancels the work inside its `async with` when the client disconnects, as ClientGone.

    Entered after the request's body was read: all that `receive` can still say is goodbye.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._gone = False

    async def __aenter__(self) -> "ClientPresent":
        """Begin to watch."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a request is handled in a task")
        self._worker = task
        self._cancelling = task.cancelling()
        # Owned by this object: awaited in __aexit__.
        self._watcher = asyncio.create_task(self._watch())  # noqa: TID251
        return self

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._worker.cancel()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop watching; turn our own cancellation, and no other, into ClientGone."""
        self._watcher.cancel()
        cancelled = kind is asyncio.CancelledError
        try:
            await asyncio.wait([self._watcher])
            # Our cancellation may not have been delivered yet; it must not strike someone else.
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            if not self._gone:
                raise
            cancelled = True
        if self._gone and cancelled:
            if self._worker.uncancel() <= self._cancelling:
                raise ClientGone from None
            raise asyncio.CancelledError
        if not self._watcher.cancelled():
            self._watcher.result()
