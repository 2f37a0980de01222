"""What is to be sent goes out when the event loop has heard everybody, and then all at once.

A process that is written to again and again, a little each time, wakes up for each of them, which
costs both sides more than the bytes do; written to in a row, it wakes up once.
"""

import asyncio
from collections.abc import Awaitable
from typing import Protocol

from router.deadline import Sweeper
from router.stall import Stall
from router.waiting import NOTHING

# More than this is not held back for company.
_AT_ONCE = 64 << 10


class Sends(Protocol):
    """Somebody who has something to send."""

    def flush(self) -> None:
        """Send it now."""
        ...


class Outbox:
    """Everybody in one event loop who has something to send."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: list[Sends] = []

    def __repr__(self) -> str:
        return f"<Outbox waiting={len(self._waiting)}>"

    def add(self, sender: Sends) -> None:
        """Flush this one before the loop waits again."""
        if not self._waiting:
            self._loop.call_soon(self._flush)
        self._waiting.append(sender)

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        waiting.reverse()
        try:
            while waiting:
                waiting.pop().flush()
        finally:
            # One that fails is logged by the loop, and keeps nobody else from being heard.
            for sender in reversed(waiting):
                self.add(sender)


class Writer:
    """The sending side of a connection, dropped when not one byte is taken in `stall_s` seconds."""

    def __init__(self, outbox: Outbox, sweeper: Sweeper, stall_s: float) -> None:
        self._outbox = outbox
        self._loop = sweeper.loop
        self._stall = Stall(sweeper, stall_s)
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._drained: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._ending = False

    def __repr__(self) -> str:
        return f"<Writer held={self._held_bytes} paused={self.paused}>"

    def open(self, transport: asyncio.Transport) -> None:
        """Write to this transport from now on."""
        self._transport = transport

    def close(self) -> None:
        """Drop what was not sent; nobody waits for it any more."""
        self._stall.close()
        self._transport = None
        self._held.clear()
        self.resume()

    def write(self, data: bytes) -> None:
        """Send these bytes soon, after those before them."""
        if not self._held:
            self._outbox.add(self)
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes > _AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Send what was written by now."""
        held, transport = self._held, self._transport
        if held and transport is not None and not transport.is_closing():
            transport.write(held[0] if len(held) == 1 else b"".join(held))
        held.clear()
        self._held_bytes = 0

    def end(self) -> None:
        """Close once all is sent that was written; a client that does not take it is dropped."""
        self.flush()
        if self._transport is not None:
            self._ending = True
            self._transport.close()
            # However little it is, it would keep the connection open for as long as it is unread.
            self._stall.watch(self._transport)

    def pause(self) -> None:
        """Let whoever sends wait, but not for ever."""
        self._drained = self._loop.create_future()
        if self._transport is not None:
            self._stall.watch(self._transport)

    @property
    def paused(self) -> bool:
        """Whether more is waiting to be sent than the client takes."""
        return self._drained is not None

    def resume(self) -> None:
        """Let whoever waits send on."""
        if not self._ending:
            self._stall.rest()
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    def drained(self) -> Awaitable[None]:
        """Return what is over when more may be written."""
        # Who waits may be cancelled, but not for the others who do.
        return NOTHING if self._drained is None else asyncio.shield(self._drained)
