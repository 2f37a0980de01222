import errno
import os
import socket
import subprocess
import sys

import pytest

from backends.listener import PortInUseError, describe_holder, open_listener


def test_listens_at_once() -> None:
    """The port is connectable before anybody accepts, and refuses once nobody listens."""
    with open_listener("127.0.0.1", 0) as listener:
        address = listener.getsockname()
        with socket.create_connection(address):
            pass
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


def test_a_stranger_cannot_take_it_meanwhile() -> None:
    """Even a stranger with SO_REUSEADDR is refused while we hold the port."""
    with open_listener("127.0.0.1", 0) as listener, socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            stranger.bind(listener.getsockname())


def test_time_wait_is_no_obstacle() -> None:
    """A port whose last connection we closed ourselves can be bound again at once."""
    with open_listener("127.0.0.1", 0) as listener:
        address = listener.getsockname()
        with socket.create_connection(address) as client:
            accepted, _ = listener.accept()
            accepted.close()
            assert client.recv(1) == b""
    open_listener(*address).close()


def test_a_taken_port_has_an_error_of_its_own() -> None:
    """A port that is taken is told apart from an address that is not ours."""
    with socket.create_server(("127.0.0.1", 0)) as stranger, pytest.raises(PortInUseError):
        open_listener("127.0.0.1", stranger.getsockname()[1])
    with pytest.raises(OSError, match="assign") as refused:
        open_listener("192.0.2.1", 0)
    assert refused.value.errno == errno.EADDRNOTAVAIL


def test_ipv6() -> None:
    """An IPv6 address is listened on as such."""
    with open_listener("::1", 0) as listener:
        assert listener.family == socket.AF_INET6


def test_the_holder_is_named() -> None:
    """Whoever listens is named by program and pid."""
    code = (
        "import socket, sys\n"
        "s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True)\n"
        "sys.stdin.read()"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe) as stranger:
        assert stranger.stdout is not None
        port = int(stranger.stdout.readline())
        told = describe_holder(port)
        assert f"(pid {stranger.pid}), which listens on it" in told
        assert told.startswith(f"port {port} is taken by python")


def test_an_outgoing_connection_is_named_as_such() -> None:
    """A port in the ephemeral range that a client happens to use is told with its peer."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(server.getsockname()) as client:
            told = describe_holder(client.getsockname()[1])
    assert f"outgoing connection to 127.0.0.1:{port}" in told
    assert f"(pid {os.getpid()})" in told
    assert "free again" in told


def test_nobody_to_be_seen() -> None:
    """A port whose holder cannot be seen is still told with a way to look."""
    with open_listener("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    assert f"lsof -nP -i :{port}" in describe_holder(port)


def test_no_connection_connects_to_itself() -> None:
    """While the router holds the port no client can be given it as its own end."""
    with open_listener("127.0.0.1", 0) as listener:
        for _ in range(2000):
            with socket.create_connection(listener.getsockname()) as client:
                assert client.getsockname() != client.getpeername()
                listener.accept()[0].close()
