"""A child program for tests: trivial HTTP on the inherited socket, and every bad habit by switch.

Run as `python -I -S fake_child.py --socket-fd N --ready-fd N …`; standard library only, so that it
starts in milliseconds. A gate is a FIFO: the child waits until a byte can be read from it.
"""

# ruff: noqa: PTH105, PTH109, PTH123, S606 (standard library only, and little of it, for a quick start)

import argparse
import fcntl
import json
import os
import signal
import socket
import sys
import time
from typing import Any


def parse() -> argparse.Namespace:
    """Read the switches."""
    parser = argparse.ArgumentParser(description="a child with bad habits")
    parser.add_argument("--socket-fd", type=int)
    parser.add_argument("--ready-fd", type=int)
    parser.add_argument("--journal", help="append start, ready, request and stop lines here")
    parser.add_argument("--alone", help="lock this file; say overlap in the journal if it is held")
    parser.add_argument("--dump-env", help="write the environment and argv here as JSON")
    parser.add_argument("--pids", help="write the pids of child and grandchildren here, one a line")
    parser.add_argument("--stderr", help="say this on stderr")
    parser.add_argument("--progress", action="append", default=[], help="say this, then go on")
    parser.add_argument("--progress-every", type=float, help="seconds between endless progress")
    parser.add_argument("--fail", help="say failed on the ready pipe, then go on")
    parser.add_argument("--ready-gate", help="wait for this gate before saying ready")
    parser.add_argument("--never-ready", action="store_true")
    parser.add_argument("--exit-after", type=float, help="seconds; 0 exits before ready")
    parser.add_argument("--exit-status", type=int, default=3)
    parser.add_argument("--kill-self", action="store_true", help="die by SIGKILL at /die")
    parser.add_argument("--ignore-term", action="store_true")
    parser.add_argument("--term-gate", help="on SIGTERM, wait for this gate before ending")
    parser.add_argument("--fork-grandchild", choices=("plain", "deaf", "setsid", "daemon"))
    parser.add_argument("--spam-stdout", type=int, default=0, help="bytes to spam before ready")
    return parser.parse_args()


class Journal:
    """Appends whole lines to a file that several children share."""

    def __init__(self, path: str | None) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if path else None

    def say(self, word: str) -> None:
        if self._fd is not None:
            os.write(self._fd, f"{word} {os.getpid()}\n".encode())


def pass_gate(path: str) -> None:
    """Block until somebody writes to the gate."""
    with open(path, "rb") as gate:
        gate.read(1)


def tell(fd: int | None, line: dict[str, Any]) -> None:
    """Write one JSON line to the ready pipe."""
    if fd is not None:
        os.write(fd, json.dumps(line).encode() + b"\n")


def start_grandchild(kind: str) -> int:
    """Start a sleeper that holds our stdout; return its pid."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        if kind in {"setsid", "daemon"}:
            os.setsid()
        if kind == "daemon" and os.fork():
            os._exit(0)
        os.write(write_end, str(os.getpid()).encode())
        if kind == "deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # which survives exec
        os.execv("/bin/sleep", ["sleep", "600"])
    os.close(write_end)
    with open(read_end, "rb") as pipe:
        grandchild = int(pipe.read())
    if kind == "daemon":
        os.waitpid(pid, 0)
    return grandchild


def spam(size: int) -> None:
    """Write binary, then one line without an end, `size` bytes in all."""
    binary = bytes(range(256)) * 256
    left = size
    while left > 0:
        half = binary if left > size // 2 else b"x" * len(binary)
        left -= os.write(1, half[:left])
    os.write(1, b"\nthe end of the spam\n")


def serve(listener: socket.socket, journal: Journal, args: argparse.Namespace) -> None:
    """Answer each connection's first request with our pid and close."""
    while True:
        connection, _ = listener.accept()
        with connection:
            head = connection.recv(65536)
            journal.say("request")
            if head.startswith(b"GET /die"):
                if args.kill_self:
                    os.kill(os.getpid(), signal.SIGKILL)
                sys.stderr.write("it was told to die\n")
                sys.stderr.flush()
                os._exit(args.exit_status)
            body = str(os.getpid()).encode()
            connection.sendall(
                b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: text/plain\r\n"
                b"content-length: %d\r\n\r\n%s" % (len(body), body)
            )


def bad_habits(args: argparse.Namespace, journal: Journal) -> None:
    """Do what the switches say before readiness."""
    if args.alone:
        try:
            fcntl.flock(
                os.open(args.alone, os.O_WRONLY | os.O_CREAT), fcntl.LOCK_EX | fcntl.LOCK_NB
            )
        except BlockingIOError:
            journal.say("overlap")
    if args.dump_env:
        with open(args.dump_env, "w", encoding="utf-8") as dump:
            json.dump({"env": dict(os.environ), "argv": sys.argv, "cwd": os.getcwd()}, dump)
    pids = [os.getpid()]
    if args.fork_grandchild:
        pids.append(start_grandchild(args.fork_grandchild))
    if args.pids:
        with open(args.pids + ".new", "w", encoding="ascii") as file:
            file.writelines(f"{pid}\n" for pid in pids)
        os.replace(args.pids + ".new", args.pids)
    if args.stderr:
        sys.stderr.write(args.stderr)
        sys.stderr.flush()
    spam(args.spam_stdout) if args.spam_stdout else None


def on_term(args: argparse.Namespace, journal: Journal) -> None:
    """Install what SIGTERM does."""
    if args.ignore_term:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return

    def end(*_: object) -> None:
        journal.say("term")
        if args.term_gate:
            pass_gate(args.term_gate)
        os._exit(0)

    signal.signal(signal.SIGTERM, end)


def main() -> None:
    """Live as told."""
    args = parse()
    journal = Journal(args.journal)
    on_term(args, journal)
    journal.say("start")
    bad_habits(args, journal)
    if args.fail:
        tell(args.ready_fd, {"failed": args.fail})
    if args.exit_after is not None:
        time.sleep(args.exit_after)
        os._exit(args.exit_status)
    for text in args.progress:
        tell(args.ready_fd, {"progress": text})
    while args.progress_every:
        tell(args.ready_fd, {"progress": "still at it"})
        time.sleep(args.progress_every)
    if args.ready_gate:
        pass_gate(args.ready_gate)
    if args.never_ready or args.fail:
        signal.pause()
    journal.say("ready")
    tell(args.ready_fd, {"ready": True})
    if args.socket_fd is None:
        signal.pause()
    serve(socket.socket(fileno=args.socket_fd), journal, args)


if __name__ == "__main__":
    main()
