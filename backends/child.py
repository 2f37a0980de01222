"""One run of a child process, seen from the router: its guardian, its pipes, its end.

What happens is told by attributes, and `on_change` is called after each change; the owner looks at
them when it wakes. Spawning is one synchronous step on the event loop's thread.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess  # noqa: TID251 the one place that starts processes
import sys
from collections.abc import Callable
from typing import NamedTuple, Self

import psutil

from backends import guardian
from backends.child_log import ChildLog
from backends.model_news import ModelBoard
from backends.pipe import JsonLines, PipeReader, PipeWriter
from backends.process_spec import ProcessSpec
from backends.wire import ModelEvent

_REAP_S = 0.002
_UNKILLABLE_S = 5.0
_TEXT = 500


class _Ends(NamedTuple):
    """The router's ends of the five pipes."""

    command: int
    report: int
    ready: int
    out: int
    err: int


class Child:
    """A child and its guardian; made by `spawn`, ended by `terminate` or `kill`, then `bury`."""

    def __init__(
        self,
        started: subprocess.Popen[bytes],
        ends: _Ends,
        log: ChildLog,
        on_change: Callable[[], None],
        clock: Callable[[], float],
        models: ModelBoard,
    ) -> None:
        self._guardian = started
        self._log = log
        self._on_change = on_change
        self._clock = clock
        self.models = models
        self.pid: int | None = None
        self.progress: str | None = None
        self.heard_at = clock()
        self.ready = False
        self.failure: str | None = None
        self.exit_code: int | None = None
        self.gone = False
        self._reports = JsonLines()
        self._ready_lines = JsonLines()
        self._command = PipeWriter(ends.command)
        self._outputs = [
            PipeReader(ends.out, lambda chunk: log.feed(chunk, is_error=False)),
            PipeReader(ends.err, lambda chunk: log.feed(chunk, is_error=True)),
        ]
        self._ready_pipe = PipeReader(ends.ready, self._on_ready_line)
        self._report_pipe = PipeReader(ends.report, self._on_report)

    @classmethod
    def spawn(
        cls,
        spec: ProcessSpec,
        listener: socket.socket,
        log: ChildLog,
        on_change: Callable[[], None],
        clock: Callable[[], float],
        emit: Callable[[ModelEvent], None],
    ) -> Self:
        """Start the guardian and order the child; OSError if there are no means for it.

        The listener is handed over: closed here, whatever happens. `emit` hears what becomes of the
        child's models.
        """
        with listener:
            started, ends, ready_fd = _start_guardian(listener.fileno())
            fds = {"{socket_fd}": str(listener.fileno()), "{ready_fd}": str(ready_fd)}
            keep = [listener.fileno(), ready_fd]
        # Not called by those who read the pipe, or close it: a failure of `emit` is none of theirs.
        later = asyncio.get_running_loop().call_soon
        models = ModelBoard(spec.name, lambda event: later(emit, event))
        child = cls(started, ends, log, on_change, clock, models)
        argv = [_fill(item, fds) for item in spec.argv]
        order = {"argv": argv, "env": spec.env, "cwd": str(spec.cwd), "keep": keep}
        child._command.write(json.dumps(order).encode() + b"\n")
        return child

    def __repr__(self) -> str:
        return f"<Child pid={self.pid} ready={self.ready} gone={self.gone}>"

    @property
    def guardian_pid(self) -> int:
        """The pid of the guardian, which is also the tree's session id."""
        return self._guardian.pid

    def terminate(self) -> None:
        """Ask the whole tree to end."""
        self._command.write(guardian.STOP)

    def kill(self) -> None:
        """End the whole tree now."""
        self._command.write(guardian.KILL)

    def memory_mb(self) -> float | None:
        """Return the child's own resident memory in MiB; None if it cannot be read."""
        if self.pid is None or self.gone:
            return None
        try:
            return float(psutil.Process(self.pid).memory_info().rss) / (1 << 20)
        except psutil.Error:
            return None

    async def bury(self) -> None:
        """Reap the guardian and close every pipe; nothing of the tree is left afterwards.

        May be called at any time: a guardian that still lives is killed, which takes the child with
        it, and the rest of its session is swept.
        """
        if not self.gone or self.exit_code is None:
            self._guardian.kill()
            give_up_at = self._clock() + _UNKILLABLE_S
            while self._sweep() and self._clock() < give_up_at:  # noqa: ASYNC110 likewise
                await asyncio.sleep(_REAP_S)
        # It is a zombie within microseconds, and no event tells that without a signal handler.
        while self._guardian.poll() is None:  # noqa: ASYNC110 as said
            await asyncio.sleep(_REAP_S)
        self.close()

    def close(self) -> None:
        """Close the pipes; a guardian that still lives ends the tree by itself."""
        # What it said before its end has been read in the turn of the loop that told of the end.
        for output in self._outputs:
            output.close()
        self._log.end_run()
        self._ready_pipe.close()
        self._report_pipe.close()
        self._command.close()
        self.models.clear()

    @property
    def last_said(self) -> str:
        """What it said of its progress last, as the end of a sentence; empty for nothing."""
        return f"; it last said: {self.progress}" if self.progress else ""

    def describe_end(self) -> str:
        """Say how it ended, with the last line of stderr."""
        if self.failure is not None:
            return self.failure
        said = f": {self._log.last_error_line}" if self._log.last_error_line else ""
        if self.exit_code is None:
            return f"was taken down with its guardian{said}"
        if self.exit_code >= 0:
            return f"exited with status {self.exit_code}{said}"
        # Its last line was written before the signal and says nothing of it.
        name = signal.strsignal(-self.exit_code) or f"signal {-self.exit_code}"
        hint = ", perhaps for want of memory" if self.exit_code == -signal.SIGKILL else ""
        return f"was ended by a signal ({name}{hint})"

    def _sweep(self) -> bool:
        """Kill who is left of a tree whose guardian was killed; tell whether anybody was.

        Until the guardian is reaped nobody else can have its pid, so its session is ours for sure.
        """
        found = False
        for pid in psutil.pids():
            try:
                if pid != self._guardian.pid and os.getsid(pid) == self._guardian.pid:
                    process = psutil.Process(pid)
                    found |= process.status() != psutil.STATUS_ZOMBIE
                    process.kill()
            except (OSError, psutil.Error):  # gone meanwhile
                continue
        return found

    def _on_report(self, chunk: bytes) -> None:
        for line in self._reports.feed(chunk):
            self.pid = line.get("pid", self.pid)
            self.failure = line.get("failed", self.failure)
            self.exit_code = line.get("exit", self.exit_code)
        self.gone = not chunk
        self._on_change()

    def _on_ready_line(self, chunk: bytes) -> None:
        for line in self._ready_lines.feed(chunk):
            if line.get("ready") is True:
                self.ready = True
                self.progress = None
            if "failed" in line:
                self.failure = str(line["failed"])[:_TEXT]
            if "progress" in line:
                self.progress = str(line["progress"])[:_TEXT]
                self.heard_at = self._clock()
            # Says nothing of the start: a model's load keeps no process from being late.
            self.models.hear(line)
        self._on_change()


def _start_guardian(socket_fd: int) -> tuple[subprocess.Popen[bytes], _Ends, int]:
    """Start a guardian with its ends of new pipes; also return the ready pipe's number there."""
    with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
        # A pipe's ends are created close-on-exec: the guardian gets what is named, no more.
        command_read, command = os.pipe()
        theirs.callback(os.close, command_read)
        ours.callback(os.close, command)
        reads, writes = [], []
        for _ in ("report", "ready", "out", "err"):
            read_end, write_end = os.pipe()
            theirs.callback(os.close, write_end)
            ours.callback(os.close, read_end)
            reads.append(read_end)
            writes.append(write_end)
        report, ready, out, err = writes
        started = subprocess.Popen(  # noqa: S603 our own interpreter and file
            (sys.executable, "-I", "-S", guardian.__file__, str(command_read), str(report)),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env={},
            cwd="/",
            pass_fds=(command_read, report, socket_fd, ready),
            start_new_session=True,
        )
        ours.pop_all()
    return started, _Ends(command, *reads), ready


def _fill(item: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        item = item.replace(name, value)
    return item
