"""The HTTP server: uvicorn, with the socket bound before anything else starts, and our signals."""

import asyncio
import errno
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import cast

import uvicorn

from router.deadline import Sweeper
from router.guard import App
from router.http1 import Http1, Rules

_BACKLOG = 2048
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


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
        listener.listen(_BACKLOG)
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
    """uvicorn's server, stopped by SIGINT, SIGTERM or SIGHUP; a second one hurries it."""

    def __init__(self, app: App, drain_s: float, rules: Rules, sweeper: Sweeper) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=cast("type[asyncio.Protocol]", partial(Http1, rules, sweeper)),
                ws="none",
                lifespan="off",
                proxy_headers=False,
                server_header=False,
                access_log=False,
                log_config=None,
                backlog=_BACKLOG,
                timeout_graceful_shutdown=max(1, round(drain_s)),
            )
        )

    def stop(self) -> None:
        """Stop taking requests and let those in flight end; called again, stop waiting for them."""
        self.force_exit = self.should_exit
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `stopped_by_signals`: uvicorn would end us before our children have."""
        yield


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
