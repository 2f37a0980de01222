"""The HTTP server: uvicorn, with the socket bound before anything else starts, and our own stop.

A stop has two phases. First whoever comes is told so (503), idle connections close, and requests in
flight go on for the grace. Then those that are left are broken off, each told as far as it can be.
"""

import asyncio
import errno
import logging
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import uvicorn

from router.deadline import Sweeper
from router.guard import Guard
from router.http1 import Http1, Rules
from router.intake import BACKLOG, Intake
from router.outbox import Outbox

log = logging.getLogger(__name__)

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# How long requests that were broken off may take to let go, and last bytes to go out.
_LET_GO_S = 0.5
_FLUSH_S = 0.25
_LOOK_S = 0.02
_DATE_S = 1.0


class BindError(Exception):
    """The address cannot be bound; the text says why and what to do."""


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket; BindError when somebody else has the address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        # Listening at once: a bound address alone can still be taken.
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        advice = (
            "Is another Signalbox running? Choose another port with --port."
            if error.errno == errno.EADDRINUSE
            else "Choose an address of this machine with --host."
        )
        raise BindError(f"Cannot listen on {host}:{port}: {error.strerror}. {advice}") from error
    listener.setblocking(False)  # noqa: FBT003 the standard library's own form
    return listener


class Server(uvicorn.Server):
    """uvicorn's server, with our intake and our stop: `stop` begins it, a second one hurries it.

    `drain_s` is the grace of requests in flight, `places` how many may be connected at a time.
    `on_stop` is called when the grace begins: it ends what would not end by itself.
    """

    def __init__(
        self,
        guard: Guard,
        drain_s: float,
        places: int,
        rules: Rules,
        sweeper: Sweeper,
        on_stop: Callable[[], object],
    ) -> None:
        super().__init__(
            uvicorn.Config(
                guard,
                http=Http1,
                ws="none",
                lifespan="off",
                proxy_headers=False,
                server_header=False,
                access_log=False,
                log_config=None,
            )
        )
        self._guard = guard
        self._drain_s = drain_s
        self._places = places
        self._rules = rules
        self._sweeper = sweeper
        self._on_stop = on_stop
        self._stopping = asyncio.Event()
        self._hurried = asyncio.Event()

    def renew(self, drain_s: float, rules: Rules) -> None:
        """Give those who connect from now on other rules, and a stop another grace."""
        self._drain_s, self._rules = drain_s, rules

    def stop(self) -> None:
        """Take no further requests and let those in flight end; called again, wait for nobody."""
        if self.should_exit:
            self.force_exit = True
            self._hurried.set()
        self.should_exit = True
        self._stopping.set()

    async def unless_hurried(self, work: Coroutine[Any, Any, None]) -> bool:
        """Await what is left to do; when somebody is in a hurry, cancel it and return False."""
        # Both are awaited here, whatever happens.
        task = asyncio.create_task(work)  # noqa: TID251 see above
        hurry = asyncio.create_task(self._hurried.wait())  # noqa: TID251 see above
        try:
            await asyncio.wait({task, hurry}, return_when=asyncio.FIRST_COMPLETED)
            return task.done()
        finally:
            hurry.cancel()
            task.cancel()
            with suppress(asyncio.CancelledError):
                await hurry
            with suppress(asyncio.CancelledError):
                await task

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `stopped_by_signals`: uvicorn would end us before our children have."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections on the one socket that is given."""
        if not sockets:
            raise ValueError("the socket is bound before the server starts")
        config, state, outbox = self.config, self.server_state, Outbox()

        def protocol() -> Http1:
            return Http1(self._rules, self._sweeper, outbox, config=config, server_state=state)

        (listener,) = sockets
        self._intake = Intake(listener, protocol, state.connections, self._places)
        await self._intake.open()
        self.started = True

    async def main_loop(self) -> None:
        """Keep the Date header right until told to stop."""
        # uvicorn's tick counts tenths of a second and renews the date at each tenth one.
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                async with asyncio.timeout(_DATE_S):
                    await self._stopping.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let requests in flight end within the grace, break off the rest, and close every door."""
        loop, state = asyncio.get_running_loop(), self.server_state
        over_at = loop.time() + self._drain_s
        in_flight = set(state.tasks)
        self._guard.draining = True
        self._on_stop()
        self._close_idle()
        if in_flight:
            log.info(
                "stopping; requests in flight: %d, for %g s at most (a second signal ends them)",
                len(in_flight),
                self._drain_s,
            )
        # Only these: whoever comes now is refused, and must not keep us.
        while in_flight and loop.time() < over_at and not self.force_exit:
            _, in_flight = await asyncio.wait(in_flight, timeout=_LOOK_S)
        await self._intake.close()
        for listener in sockets or ():
            listener.close()
        if in_flight:
            log.warning("stopping; requests broken off: %d", len(in_flight))
        await self._break_off()
        # Whoever was just answered may still be sending, and closing now could cost it the answer.
        await self._until_gone(loop.time() + _FLUSH_S)
        self._close_idle()
        if not self.force_exit:
            # The end of an answer may still be on its way to a slow reader.
            await self._until_gone(over_at)
        for connection in list(state.connections):
            connection.transport.abort()

    def _close_idle(self) -> None:
        """Close each connection now, or as soon as its answer is out."""
        for connection in list(self.server_state.connections):
            connection.shutdown()

    async def _break_off(self) -> None:
        left = set(self.server_state.tasks)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=_LET_GO_S)

    async def _until_gone(self, over_at: float) -> None:
        """Return when no connection is open, or it is late, or somebody has become impatient."""
        loop, patient = asyncio.get_running_loop(), not self.force_exit
        while self.server_state.connections and loop.time() < over_at:
            if patient and self.force_exit:
                break
            await asyncio.sleep(_LOOK_S)


@contextmanager
def stopped_by_signals(server: Server) -> Iterator[None]:
    """Stop the server on the first signal and hurry it on the next, until this is left."""
    loop = asyncio.get_running_loop()
    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, server.stop)
    try:
        yield
    finally:
        for number in _STOP_SIGNALS:
            loop.remove_signal_handler(number)
