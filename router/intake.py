"""Taking connections: as many at a time as there are descriptors for, the rest wait in the kernel.

Left alone, libuv accepts a connection that it has no descriptor for and closes it at once, and
asyncio logs each refusal. Here the listening socket rests instead while all places are taken, and
nobody is turned away: a newcomer waits in the backlog until somebody leaves.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Collection

log = logging.getLogger(__name__)

# How many newcomers the kernel keeps for us.
BACKLOG = 2048
# How often a resting intake looks whether somebody has left, and how often it says that it rests.
_LOOK_S = 0.05
_SAY_AGAIN_S = 60.0


class Intake:
    """Accepts connections from `listener` while fewer than `places` of them are open.

    `make` returns the protocol of a new connection, which keeps itself in `connections` while it is
    open. The listener stays the caller's: it is neither closed nor shut here.
    """

    def __init__(
        self,
        listener: socket.socket,
        make: Callable[[], asyncio.Protocol],
        connections: Collection[asyncio.Protocol],
        places: int,
    ) -> None:
        self._listener = listener
        self._make = make
        self._connections = connections
        self._places = places
        self._loop = asyncio.get_running_loop()
        self._server: asyncio.AbstractServer | None = None
        self._full = asyncio.Event()
        self._arriving = 0
        self._said_at = -_SAY_AGAIN_S

    def __repr__(self) -> str:
        state = "resting" if self._server is None else "open"
        return f"<Intake {state} {len(self._connections)} of {self._places}>"

    async def open(self) -> None:
        """Begin to accept."""
        await self._accept()
        # Owned by this object: cancelled and awaited in `close`.
        self._keeper = asyncio.create_task(self._keep())  # noqa: TID251 see above

    async def close(self) -> None:
        """Accept nobody any more; connections that are open stay so."""
        self._keeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._keeper
        self._rest()

    async def _accept(self) -> None:
        # A copy, which resting closes: newcomers queue at the original meanwhile.
        copy = self._listener.dup()
        self._server = await self._loop.create_server(self._arrive, sock=copy, backlog=BACKLOG)

    def _rest(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()

    def _arrive(self) -> asyncio.Protocol:
        """Return the protocol of a connection that is being accepted; after the last place, rest.

        Not at once: closing the listener now would close what it has just accepted.
        """
        if not self._arriving:
            self._loop.call_soon(self._arrived)
        self._arriving += 1
        if len(self._connections) + self._arriving >= self._places:
            self._full.set()
        return self._make()

    def _arrived(self) -> None:
        """Forget those who came in this turn of the loop: it puts them among the connections."""
        self._arriving = 0

    async def _keep(self) -> None:
        """Rest whenever every place is taken, until some are free again."""
        while True:
            await self._full.wait()
            self._rest()
            self._say()
            await asyncio.sleep(_LOOK_S)
            while len(self._connections) >= self._places:  # noqa: ASYNC110 a plain set tells nobody
                await asyncio.sleep(_LOOK_S)
            self._full.clear()
            await self._accept()

    def _say(self) -> None:
        if self._loop.time() - self._said_at >= _SAY_AGAIN_S:
            self._said_at = self._loop.time()
            log.warning(
                "%d connections are open, as many as the limit on open files allows (ulimit -n): "
                "new ones wait until others close",
                self._places,
            )
