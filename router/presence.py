"""Work for a client goes on only while the client is there, and nobody has stopped it."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from router.errors import ClientGone


class Client(Protocol):
    """Somebody who waits for an answer, and may cease to."""

    gone: bool
    loop: asyncio.AbstractEventLoop

    def when_gone(self, tell: Callable[[], None] | None) -> None:
        """Call `tell` once when the client leaves; None to be left alone."""
        ...


class ClientPresent:
    """Cancels the work inside its `with` when the client leaves, as ClientGone, or when stopped."""

    __slots__ = ("_cancelling", "_client", "_reason", "_worker")

    def __init__(self, client: Client) -> None:
        self._client = client
        self._reason: Exception | None = None

    def __enter__(self) -> Self:
        """Begin to watch; raises ClientGone where there is nobody any more."""
        if self._client.gone:
            raise ClientGone
        # Unless it is told the loop, CPython 3.11 asks the system who we are, each time.
        task = asyncio.current_task(self._client.loop)
        if task is None:
            raise RuntimeError("a request is handled in a task")
        self._worker = task
        self._cancelling = task.cancelling()
        self._client.when_gone(self._leave)
        return self

    def _leave(self) -> None:
        self.stop(ClientGone())

    def stop(self, reason: Exception) -> None:
        """End the work, which raises `reason` then; the first reason counts."""
        if self._reason is None:
            self._reason = reason
            self._worker.cancel()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop watching; turn our own cancellation, and no other, into its reason."""
        self._client.when_gone(None)
        # Out of here and out of this frame: an error that is held by what its own frames hold would
        # be left to the collector.
        reason, self._reason = self._reason, None
        # Uncounted whatever came of it: somebody else's cancellation must be seen as theirs alone.
        if (
            reason is not None
            and self._worker.uncancel() <= self._cancelling
            and kind is asyncio.CancelledError
        ):
            try:
                raise reason from None
            finally:
                del reason
