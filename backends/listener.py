"""The port of a local process: bound by the router, handed to the child.

Bound with SO_REUSEADDR and listening at once: so a stranger cannot slip in between, a port in
TIME_WAIT is no obstacle, and connections wait in the backlog until the child accepts.
"""

import errno
import socket

import psutil

_BACKLOG = 1024


class PortInUseError(Exception):
    """Somebody else has the port."""


def open_listener(host: str, port: int) -> socket.socket:
    """Return a listening socket; PortInUseError when it is taken, else OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUseError(f"{host}:{port}") from error
        raise
    return listener


def describe_holder(port: int) -> str:
    """Say who has a local TCP port: a listener, or an outgoing connection of this machine.

    Looks only; nobody is ever signalled. It reads the whole table of connections, which takes
    milliseconds to tenths of a second: call it in a thread.
    """
    try:
        connections = psutil.net_connections(kind="tcp")
    except (psutil.AccessDenied, OSError):  # other people's sockets are hidden on macOS
        connections = []
    holders = [found for found in connections if found.laddr and found.laddr.port == port]
    holders.sort(key=lambda found: found.status != psutil.CONN_LISTEN)
    if not holders:
        return f"port {port} is taken by another program (`lsof -nP -i :{port}` may name it)"
    holder = holders[0]
    if holder.status == psutil.CONN_LISTEN:
        return f"port {port} is taken by {_name(holder.pid)}, which listens on it"
    peer = f" to {holder.raddr.ip}:{holder.raddr.port}" if holder.raddr else ""
    return (
        f"port {port} is taken as the local end of an outgoing connection{peer} of "
        f"{_name(holder.pid)}; it is free again when that connection closes"
    )


def _name(pid: int | None) -> str:
    if pid is None:
        return "another program"
    try:
        return f"{psutil.Process(pid).name()} (pid {pid})"
    except psutil.Error:
        return f"pid {pid}"
