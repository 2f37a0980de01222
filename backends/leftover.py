"""Processes that a killed router may have left, and the proof that they are ours.

While a child lives, `<name>.json` in the run directory (0600) holds the pid and the identity of its
guardian and of itself. A new router ends who is still alive *and* has the recorded identity; a pid
that has been given to somebody else is left alone. Nobody is ever found by name or port, and nobody
is adopted.
"""

import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path

import psutil

_GONE_S = 3.0

_log = logging.getLogger(__name__)


def identity(pid: int) -> str | None:
    """Return what tells this process from any other that ever has its pid; None if it is gone."""
    try:
        # Linux: boot and clock ticks since boot, which no change of the wall clock moves.
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except FileNotFoundError:
        try:
            return f"{psutil.Process(pid).create_time():.6f}"
        except psutil.Error:
            return None
    except ProcessLookupError:
        return None
    return f"{boot}:{stat[stat.rindex(b')') + 2 :].split()[19].decode()}"


class RunRecord:
    """The record of one process's life in the run directory."""

    def __init__(self, run_dir: Path, name: str) -> None:
        self._path = run_dir / f"{name}.json"

    def write(self, pids: Iterable[int | None]) -> None:
        """Record the living; replaces the record in one step."""
        rows = [{"pid": pid, "identity": found} for pid in pids if pid and (found := identity(pid))]
        draft = self._path.with_suffix(".new")
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w", encoding="ascii") as file:
            json.dump(rows, file)
        draft.replace(self._path)

    def remove(self) -> None:
        """Forget it: nothing lives any more."""
        self._path.unlink(missing_ok=True)


def end_leftovers(run_dir: Path) -> list[int]:
    """End everybody who is recorded, alive and proven ours; return their pids. Blocks up to 3 s."""
    ended: list[int] = []
    for path in sorted(run_dir.glob("*.json")):
        proven = [pid for pid, recorded in _rows(path) if identity(pid) == recorded]
        for pid in proven:
            _log.warning("ending pid %s, left by a router that was killed (%s)", pid, path.stem)
            ended += _end_tree(pid)
        path.unlink(missing_ok=True)
    return ended


def _rows(path: Path) -> list[tuple[int, str]]:
    try:
        rows = json.loads(path.read_bytes())
        return [(int(row["pid"]), str(row["identity"])) for row in rows]
    except (OSError, ValueError, TypeError, KeyError):
        _log.warning("%s is not a record of ours and proves nothing", path.name)
        return []


def _end_tree(pid: int) -> list[int]:
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
    for process in family:
        try:
            process.kill()  # psutil compares the creation time again
        except psutil.Error:
            continue
    psutil.wait_procs(family, timeout=_GONE_S)
    return [process.pid for process in family]
