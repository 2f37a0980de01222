"""The tiny parent of one child process: nothing of the child outlives the router.

Run as `python -I -S guardian.py COMMAND_FD REPORT_FD` in a session of its own. It imports only the
standard library, and little of that, so that it starts in milliseconds.

The command pipe's write end is held by the router alone: its first line is the order (what to run),
then each byte is a command, and its end means that the router is gone, however it went.

    "T"   SIGTERM to every process of the child's tree
    "K"   SIGKILL to all of them
    end   SIGTERM, `GRACE_S`, SIGKILL

On the report pipe go JSON lines: {"pid": n} once the child runs, {"failed": text} when it cannot,
{"exit": status} when it has ended (negative: the signal). The end of that pipe means that nothing
of the tree is left.

The tree, not only the group: a descendant that called setsid is found by its parents. On Linux the
guardian is the subreaper, so one that daemonised becomes its child again; elsewhere whoever was
seen once is remembered by pid and start time. PR_SET_PDEATHSIG covers the guardian's own death.
"""

# ruff: noqa: PTH123, PTH208 (pathlib is left out for a quick start)

import contextlib
import ctypes
import json
import os
import select
import signal
import sys
import time
from typing import Any, NamedTuple, NoReturn

GRACE_S = 1.0
STOP = b"T"
KILL = b"K"

_RESCAN_S = 0.02
# A process in uninterruptible sleep survives SIGKILL; waiting for it for ever helps nobody.
_UNKILLABLE_S = 5.0
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_ON_LINUX = sys.platform == "linux"
_HANDLED = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Row(NamedTuple):
    """One living process of the machine: its parent, and its start time as the system spells it."""

    parent: int
    started: str


def scan_proc() -> dict[int, Row]:
    """Read every process from /proc (Linux); a zombie is no longer a living process."""
    rows: dict[int, Row] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as stat:
                text = stat.read()
        except OSError:  # it went between the listing and the reading
            continue
        # The program's name stands in parentheses and may hold anything, ")" too.
        fields = text[text.rindex(b")") + 2 :].split()
        if fields[0] != b"Z":
            rows[int(name)] = Row(int(fields[1]), fields[19].decode())
    return rows


def scan_ps() -> dict[int, Row]:
    """Read every process from ps, on systems without /proc."""
    read_end, write_end = os.pipe()
    columns = "-Ao", "pid=,ppid=,stat=,lstart="
    to_pipe = [(os.POSIX_SPAWN_DUP2, write_end, 1)]
    pid = os.posix_spawnp("ps", ["ps", *columns], {"LC_ALL": "C"}, file_actions=to_pipe)
    os.close(write_end)
    with open(read_end, "rb") as output:
        lines = output.read().decode(errors="replace").splitlines()
    os.waitpid(pid, 0)
    rows: dict[int, Row] = {}
    for line in lines:
        number, parent, state, started = line.split(None, 3)
        if not state.startswith("Z"):
            rows[int(number)] = Row(int(parent), started)
    rows.pop(pid, None)
    return rows


def descendants(rows: dict[int, Row], roots: set[int]) -> set[int]:
    """Return every process below `roots`, the roots themselves left out."""
    children: dict[int, list[int]] = {}
    for pid, row in rows.items():
        children.setdefault(row.parent, []).append(pid)
    found: set[int] = set()
    frontier = list(roots)
    while frontier:
        for pid in children.get(frontier.pop(), ()):
            if pid not in found and pid not in roots:
                found.add(pid)
                frontier.append(pid)
    return found


class Tree:
    """The living processes below the guardian, known by pid and start time."""

    def __init__(self) -> None:
        self._scan = scan_proc if _ON_LINUX else scan_ps
        self._known: dict[int, str] = {}

    def living(self) -> list[int]:
        """Scan the machine; return who is ours and alive now."""
        rows = self._scan()
        seen_before = {
            pid
            for pid, started in self._known.items()
            if pid in rows and rows[pid].started == started
        }
        ours = seen_before | descendants(rows, seen_before | {os.getpid()})
        self._known = {pid: rows[pid].started for pid in ours}
        return sorted(ours)

    def signal(self, number: int) -> list[int]:
        """Send a signal to everyone who is ours; return who that was."""
        pids = self.living()
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue  # it was quicker
            except PermissionError:
                continue  # it has become somebody else's, and is not ours to end
        return pids


class Guardian:
    """Starts the child, ends its tree when told or when the router is gone."""

    def __init__(self, command_fd: int, report_fd: int) -> None:
        self._command_fd = command_fd
        self._report_fd = report_fd
        self._tree = Tree()
        self._child = 0
        self._exited = False
        self._stopping = False
        self._kill_at: float | None = None
        self._wake_fd, self._wake_write_fd = os.pipe()
        os.set_blocking(self._wake_write_fd, False)

    def start(self, order: dict[str, Any]) -> None:
        """Fork the child; the copies of what it inherits are closed here."""
        # The router's copies were made inheritable for us: these two must go no further.
        os.set_inheritable(self._command_fd, False)  # noqa: FBT003 positional-only
        os.set_inheritable(self._report_fd, False)  # noqa: FBT003 positional-only
        if _ON_LINUX:
            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        signal.set_wakeup_fd(self._wake_write_fd, warn_on_full_buffer=False)
        for number in _HANDLED:
            signal.signal(number, lambda *_: None)
        guardian = os.getpid()
        self._child = os.fork()
        if self._child == 0:
            self._become(order, guardian)
        with contextlib.suppress(OSError):  # the child did it first, or is gone already
            os.setpgid(self._child, self._child)
        for fd in order["keep"]:
            os.close(fd)
        self._report({"pid": self._child})

    def _become(self, order: dict[str, Any], guardian: int) -> NoReturn:
        """Turn this fork into the child; a failure is reported, never returned from."""
        try:
            os.setpgid(0, 0)
            if _ON_LINUX:
                ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
                if os.getppid() != guardian:  # it died before the line above
                    os._exit(1)
            # An ignored signal survives exec: Python ignores two, a shell's `&` two others.
            for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
                signal.signal(number, signal.SIG_DFL)
            for fd in order["keep"]:
                os.set_inheritable(fd, True)  # noqa: FBT003 positional-only
            os.chdir(order["cwd"])
            argv = order["argv"]
            os.execvpe(argv[0], argv, order["env"])  # noqa: S606 the order comes from the router
        except OSError as error:
            program = order["argv"][0].rpartition("/")[2]
            what = "its folder" if error.filename == order["cwd"] else program
            self._report({"failed": f"cannot be run: {what}: {error.strerror}"})
        finally:
            os._exit(127)

    def watch(self, commands: bytes = b"") -> None:
        """Serve commands and reap until nothing of the tree is left."""
        for number in commands:
            self._on_command(bytes([number]))
        poll = select.poll()
        poll.register(self._command_fd, select.POLLIN)
        poll.register(self._wake_fd, select.POLLIN)
        while not self._over():
            for fd, _ in poll.poll(self._patience_ms()):
                if fd == self._wake_fd:
                    self._on_signals(os.read(fd, 512))
                    continue
                command = os.read(fd, 1)
                if not command:
                    poll.unregister(fd)
                self._on_command(command)

    def _on_command(self, command: bytes) -> None:
        if command == KILL:
            self._kill_at = time.monotonic()
            return
        self._stopping = True
        self._tree.signal(signal.SIGTERM)
        if not command:
            self._kill_within(GRACE_S)

    def _on_signals(self, numbers: bytes) -> None:
        # Whoever ends the guardian means the child; SIGCHLD only has to wake the loop.
        if any(number != signal.SIGCHLD for number in numbers):
            self._on_command(b"")

    def _kill_within(self, delay_s: float) -> None:
        at = time.monotonic() + delay_s
        self._kill_at = at if self._kill_at is None else min(at, self._kill_at)

    def _patience_ms(self) -> int | None:
        if self._kill_at is None:
            return None
        left = self._kill_at - time.monotonic()
        if self._exited or left <= 0:
            return int(_RESCAN_S * 1000)
        return int(left * 1000) + 1

    def _over(self) -> bool:
        """Reap, kill whoever is overdue, and say whether nothing is left."""
        self._reap()
        overdue_s = -1.0 if self._kill_at is None else time.monotonic() - self._kill_at
        if overdue_s >= 0:
            left = self._tree.signal(signal.SIGKILL)
            self._reap()
        elif self._exited:
            left = self._tree.living()
        else:
            return False
        return self._exited and (not left or overdue_s > _UNKILLABLE_S)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._child:
                self._exited = True
                self._report({"exit": os.waitstatus_to_exitcode(status)})
                # What a crashed child leaves behind is of no use; after a stop it gets its grace.
                self._kill_within(GRACE_S if self._stopping else 0.0)

    def _report(self, line: dict[str, Any]) -> None:
        # the router is gone; the command pipe says so too.
        with contextlib.suppress(BrokenPipeError):
            os.write(self._report_fd, json.dumps(line).encode() + b"\n")


def read_order(command_fd: int) -> tuple[dict[str, Any], bytes] | None:
    """Read the order and the commands that came with it; None when the router went before."""
    line, end, commands = b"", b"", b""
    while not end:
        chunk = os.read(command_fd, 65536)
        if not chunk:
            return None
        line, end, commands = (line + chunk).partition(b"\n")
    return json.loads(line), commands


def main() -> None:
    """Run one child to its end."""
    command_fd, report_fd = (int(number) for number in sys.argv[1:3])
    read = read_order(command_fd)
    if read is None:
        return
    order, commands = read
    guardian = Guardian(command_fd, report_fd)
    guardian.start(order)
    guardian.watch(commands)


if __name__ == "__main__":
    main()
    # The end of the report pipe is the router's signal: no time for the interpreter's farewell.
    os._exit(0)
