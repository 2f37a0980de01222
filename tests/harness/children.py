"""Fake children under a real manager: how to order one, and how to look at what it did."""

import asyncio
import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backends.leftover import identity
from backends.process_manager import ProcessManager, ProcessSpec, ProcessTimeouts, RestartPolicy
from backends.wire import BackendEvent, ModelEvent, ProcessEvent
from backends.wire import ProcessState as S
from tests.harness import fake_child

QUICK = ProcessTimeouts(start_s=20, stall_s=20, drain_s=10, stop_s=10, idle_stop_s=600)
RESTART = RestartPolicy(backoff_max_s=0.02, window_s=300, starts_per_window=3)


class Gate:
    """A FIFO that a fake child waits at until it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)
        # Held open for both directions, so that opening it never blocks here.
        self._fd = os.open(path, os.O_RDWR)

    def open(self) -> None:
        """Let one child through."""
        os.write(self._fd, b".")

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._fd)


class Yard:
    """A folder for one test's children: their specs, journal, log and records."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run_dir = folder / "run"
        self.events: list[BackendEvent] = []
        self.model_events: list[ModelEvent] = []
        self._gates: list[Gate] = []

    def spec(self, *switches: str, name: str = "fake", **changes: Any) -> ProcessSpec:
        """Return the spec of a fake child with these switches, its journal in this folder."""
        spec = ProcessSpec(
            name=name,
            argv=(
                *(sys.executable, "-I", "-S", fake_child.__file__),
                *("--socket-fd", "{socket_fd}", "--ready-fd", "{ready_fd}"),
                *("--journal", str(self.folder / f"{name}.journal")),
                *("--alone", str(self.folder / f"{name}.alone")),
                *switches,
            ),
            env={},
            cwd=self.folder,
            host="127.0.0.1",
            port=0,
            log_path=self.folder / f"{name}.log",
            timeouts=QUICK,
            restart=RESTART,
        )
        return dataclasses.replace(spec, **changes)

    def manager(
        self, *specs: ProcessSpec, clock: Callable[[], float] | None = None
    ) -> ProcessManager:
        """Return a manager of these specs that keeps its events here."""
        more = {"clock": clock} if clock else {}
        return ProcessManager(specs, run_dir=self.run_dir, emit=self.emit, **more)

    def emit(self, event: ProcessEvent) -> None:
        """Keep an event, by its kind."""
        if isinstance(event, ModelEvent):
            self.model_events.append(event)
        else:
            self.events.append(event)

    def gate(self, name: str) -> Gate:
        """Make a gate that is given back after the test."""
        gate = Gate(self.folder / name)
        self._gates.append(gate)
        return gate

    def close(self) -> None:
        """Give the gates back."""
        for gate in self._gates:
            gate.close()

    def states(self, name: str = "fake") -> list[S]:
        """Return the states that were told of, in order."""
        return [event.state for event in self.events if event.name == name]

    def journal(self, word: str, name: str = "fake") -> list[int]:
        """Return the pids of the children that wrote this word, in order."""
        path = self.folder / f"{name}.journal"
        if not path.exists():
            return []
        lines = [line.split() for line in path.read_text(encoding="ascii").splitlines()]
        return [int(pid) for said, pid in lines if said == word]

    def pids(self) -> list[int]:
        """Return the pids that a child wrote down before it was ready (`--pids`)."""
        return [int(line) for line in (self.folder / "pids").read_text(encoding="ascii").split()]

    async def until_generation(self, manager: ProcessManager, generation: int) -> None:
        """Wait for a run of the child."""
        await until(lambda: manager.status("fake").generation == generation)


async def until(condition: Callable[[], object], within_s: float = 10.0) -> None:
    """Wait for something outside this process; TimeoutError if it does not come about."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.005)


async def ask(port: int, path: str = "/") -> bytes:
    """Send one HTTP request; return the answer's body, b"" when the connection just ended."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        return (await reader.read()).rpartition(b"\r\n\r\n")[2]
    finally:
        writer.close()


def is_gone(pid: int) -> bool:
    """Tell whether no living process has this pid; a zombie of somebody else's is not living."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return identity(pid) is None
    return stat[stat.rindex(b")") + 2 :].split()[0] == b"Z"
