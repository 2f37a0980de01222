"""Run a command to its end in a process group of its own, reading what it says line by line."""

import asyncio
import contextlib
import os
import signal
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_CHUNK = 65536
_LINE = 4096
_TAIL = 20
_GRACE_S = 0.5


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended: its status (negative: the signal that ended it) and its last lines."""

    status: int
    tail: tuple[str, ...]

    @property
    def last_line(self) -> str:
        """The last line that says something, or how the command ended when none does."""
        said = [line for line in self.tail if line.strip()]
        return said[-1].strip() if said else f"it ended with status {self.status} and no message"


async def run_command(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    folder: Path,
    on_line: Callable[[str], None] | None = None,
) -> Outcome:
    """Run a command and return how it ended; stdout and stderr are read as one.

    Raises OSError when it cannot be started. When the caller is cancelled, the whole process group
    is ended and gone before this returns.
    """
    child = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env=dict(environment),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    tail: deque[str] = deque(maxlen=_TAIL)
    try:
        assert child.stdout is not None  # noqa: S101 it was asked for above
        await _read_lines(child.stdout, tail, on_line or (lambda _line: None))
        return Outcome(await child.wait(), tuple(tail))
    finally:
        await _end(child)


async def _read_lines(
    stream: asyncio.StreamReader, tail: deque[str], on_line: Callable[[str], None]
) -> None:
    # In chunks: readline() raises on a line longer than its limit, and a full pipe blocks a child.
    rest = b""
    while chunk := await stream.read(_CHUNK):
        *lines, rest = (rest + chunk).splitlines(keepends=True)
        if rest.endswith((b"\n", b"\r")) or len(rest) > _LINE:
            lines, rest = [*lines, rest], b""
        for line in lines:
            text = line[:_LINE].decode(errors="replace").rstrip("\r\n")
            tail.append(text)
            on_line(text)
    if rest:
        tail.append(rest.decode(errors="replace"))
        on_line(tail[-1])


async def _end(child: asyncio.subprocess.Process) -> None:
    """End a command that still runs, with all that it started: TERM, half a second, KILL."""
    if child.returncode is not None:
        return
    try:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(child.wait(), _GRACE_S)
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            await child.wait()
