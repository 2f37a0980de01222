"""A server that the benchmark starts, measures, and ends by its id."""

import ctypes
import http.client
import os
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from bench.machine import running_on

ROOT = Path(__file__).parents[1]
_STOP_S = 5.0
_POLL_S = 0.002
# Below every system's range of ephemeral ports: a poll of a port in that range can come to connect
# to itself, and then nobody else can listen there.
_PORTS = range(20_000, 32_000)


class ServerFailed(Exception):
    """A server did not start, or ended; the text holds the end of what it said."""


class FreePorts:
    """Hands out ports of the loopback address that nobody listens on, each of them once."""

    def __init__(self) -> None:
        # Two benchmarks at a time do not begin at the same port.
        self._next = _PORTS.start + os.getpid() * 16 % (len(_PORTS) // 2)

    def take(self) -> int:
        """Return a free port; ServerFailed when there is none left."""
        while self._next < _PORTS.stop:
            port, self._next = self._next, self._next + 1
            with socket.socket() as probe:
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
            return port
        raise ServerFailed(f"no free port below {_PORTS.stop}")


class Child:
    """One server process on one port of this machine; a context manager that ends it.

    `core` is the one core it may use, or None. What it writes goes to a log in `folder`, which is
    its home too. `variables` are all of its environment besides PATH, HOME and LANG.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        port: int,
        folder: Path,
        core: int | None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.port = port
        self._argv = argv
        self._variables = variables or {}
        self._folder = folder
        self._core = core
        self._log = folder / f"{name}.log"

    def __enter__(self) -> Self:
        # Nothing of this shell's configuration, and no proxy variable, may change what is measured.
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self._folder),
            "LANG": "C.UTF-8",
            **self._variables,
        }
        with self._log.open("wb") as log, running_on(self._core):
            self.since = time.perf_counter()
            self._process = subprocess.Popen(
                self._argv,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._cpu_clock = _cpu_clock(self.pid)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __repr__(self) -> str:
        return f"<Child {self.name} {self.pid} on port {self.port}>"

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def first_answer(self, path: str, within_s: float = 20.0) -> float:
        """Ask until the server answers with success; return the seconds since it was started."""
        self._until(lambda: self._answers(path), f"did not answer {path}", within_s)
        return time.perf_counter() - self.since

    def port_told_in(self, file: Path, within_s: float = 20.0) -> float:
        """Wait until a server that chooses its port has written it to a file, and remember it.

        Return the seconds since it was started.
        """
        self._until(file.exists, "told no port", within_s)
        self.port = int(file.read_text("utf-8"))
        return time.perf_counter() - self.since

    def _until(self, is_true: Callable[[], bool], failure: str, within_s: float) -> None:
        deadline = time.perf_counter() + within_s
        while time.perf_counter() < deadline:
            if self._process.poll() is not None:
                raise ServerFailed(
                    f"{self.name} ended with {self._process.returncode}: {self._end()}"
                )
            if is_true():
                return
            time.sleep(_POLL_S)
        raise ServerFailed(f"{self.name} {failure} in {within_s:.0f} s: {self._end()}")

    def _answers(self, path: str) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def cpu_s(self) -> float:
        """Return the CPU seconds, user and system, that the process has used so far."""
        if self._cpu_clock is not None:
            return time.clock_gettime(self._cpu_clock)
        times = psutil.Process(self.pid).cpu_times()
        return times.user + times.system

    def resident_mb(self) -> float:
        """Return the process's resident memory in megabytes of 1,000,000 bytes."""
        return psutil.Process(self.pid).memory_info().rss / 1e6

    def _end(self) -> str:
        return self._log.read_text("utf-8", "replace")[-2000:].strip() or "it said nothing"


def end_leftovers() -> None:
    """End every process that this one started and still has.

    A signal that comes while one is being started leaves it without a Child to end it.
    """
    left = psutil.Process().children()
    for process in left:
        process.terminate()
    _, alive = psutil.wait_procs(left, _STOP_S)
    for process in alive:
        process.kill()


def _cpu_clock(pid: int) -> int | None:
    """Return the clock of a process's CPU time, which counts nanoseconds, or None without one.

    The times that psutil can read come in hundredths of a second: too coarse for short rounds.
    """
    try:
        clock_of = ctypes.CDLL(None).clock_getcpuclockid
    except (AttributeError, OSError, TypeError):
        return None
    clock = ctypes.c_int()
    return clock.value if clock_of(pid, ctypes.byref(clock)) == 0 else None
