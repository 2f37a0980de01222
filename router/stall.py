"""A client that leaves its answer unread, told from one that reads slowly."""

import asyncio
import fcntl
import socket
import sys
import termios

from router.deadline import Sweeper

# macOS: how many bytes lie in a socket's send buffer. The socket module does not name it.
_SO_NWRITE = 0x1024


class Stall:
    """Drops a connection when not one byte of an answer is taken within `within_s` seconds.

    Waiting until more may be written would not do: the kernel holds megabytes, and says that there
    is room again only when a third of them has gone.
    """

    __slots__ = ("_alarm", "_transport", "_unread", "_within_s")

    def __init__(self, sweeper: Sweeper, within_s: float) -> None:
        self._alarm = sweeper.alarm(self._look)
        self._within_s = within_s

    def watch(self, transport: asyncio.Transport) -> None:
        """Begin to watch; nothing is written meanwhile."""
        self._transport = transport
        self._unread = _unread(transport)
        self._alarm.set(self._within_s)

    def rest(self) -> None:
        """Watch no more, until told to again."""
        self._alarm.silence()

    def close(self) -> None:
        """Never watch again."""
        self._alarm.close()

    def _look(self) -> None:
        unread = _unread(self._transport)
        if unread < self._unread:
            self._unread = unread
            self._alarm.set(self._within_s)
        else:
            self._transport.abort()


def _unread(transport: asyncio.Transport) -> int:
    """Return how many bytes were written that the client's machine has not taken."""
    return transport.get_write_buffer_size() + _in_kernel(transport.get_extra_info("socket"))


def _in_kernel(sock: socket.socket) -> int:
    if sys.platform == "darwin":
        return sock.getsockopt(socket.SOL_SOCKET, _SO_NWRITE)
    told = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
    return int.from_bytes(told, sys.byteorder)
