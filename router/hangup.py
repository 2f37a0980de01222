"""SIGHUP: a terminal that went away stops the router, anybody else has the file read again."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from router.watch import FileWatch


@contextmanager
def reloaded_by_hangup(watch: FileWatch, stop: Callable[[], None]) -> Iterator[None]:
    """Read the configuration again at each SIGHUP, until this is left.

    The kernel sends the same signal when our terminal is closed: then `stop` is called.
    """
    loop, had_terminal = asyncio.get_running_loop(), _has_terminal()

    def hung_up() -> None:
        if had_terminal and not _has_terminal():
            stop()
        else:
            watch.read_again()

    loop.add_signal_handler(signal.SIGHUP, hung_up)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)


def _has_terminal() -> bool:
    """Tell whether this process has a controlling terminal that still stands."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK))
    except OSError:
        return False
    return True
