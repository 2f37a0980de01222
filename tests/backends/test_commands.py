import asyncio
import contextlib
import os
import sys
from pathlib import Path

import psutil
import pytest

from backends.commands import Outcome, run_command


async def said(tmp_path: Path, script: str) -> tuple[Outcome, list[str]]:
    """Run a Python script; return how it ended and its lines."""
    lines: list[str] = []
    outcome = await run_command(
        [sys.executable, "-c", script], environment={}, folder=tmp_path, on_line=lines.append
    )
    return outcome, lines


async def test_lines_and_status_are_told(tmp_path: Path) -> None:
    """Lines of stdout and stderr arrive in order and the status is the command's."""
    outcome, lines = await said(
        tmp_path, "import sys; print('one', flush=True); print('two', file=sys.stderr); sys.exit(3)"
    )
    assert (outcome.status, lines, outcome.last_line) == (3, ["one", "two"], "two")


async def test_a_line_without_end_does_not_block(tmp_path: Path) -> None:
    """A megabyte without a line end is read on, so that the command can end."""
    outcome, lines = await said(tmp_path, "print('x' * 1_000_000, end='')")
    assert outcome.status == 0
    assert all(len(line) <= 4096 for line in lines)


async def test_a_silent_failure_has_a_text(tmp_path: Path) -> None:
    """A command that says nothing is described by its status."""
    outcome, _ = await said(tmp_path, "import os; os._exit(7)")
    assert "status 7" in outcome.last_line


async def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    """A missing command is an OSError."""
    with pytest.raises(FileNotFoundError):
        await run_command([str(tmp_path / "none")], environment={}, folder=tmp_path)


@pytest.mark.parametrize("stubborn", [False, True])
async def test_cancelling_ends_the_whole_group(tmp_path: Path, stubborn: bool) -> None:
    """A cancelled caller leaves neither the command nor its children, even if it ignores TERM."""
    script = (
        "import os, signal, subprocess, sys, time\n"
        f"if {stubborn}: signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    pids: list[int] = []
    started = asyncio.Event()

    def on_line(line: str) -> None:
        pids.append(int(line))
        started.set()

    async with asyncio.TaskGroup() as group:
        running = group.create_task(
            run_command(
                [sys.executable, "-c", script], environment={}, folder=tmp_path, on_line=on_line
            )
        )
        await started.wait()
        running.cancel()
    assert not psutil.Process(os.getpid()).children(recursive=True)
    # Orphaned by its dead parent, it is ended at once but reaped by another process.
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(pids[0]).wait(timeout=2)
