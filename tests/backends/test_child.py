import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator

import pytest

from backends.child import Child
from backends.child_log import ChildLog
from backends.listener import open_listener
from backends.process_spec import ProcessSpec
from tests.harness.children import Yard, is_gone, until


@contextlib.asynccontextmanager
async def run(spec: ProcessSpec) -> AsyncIterator[Child]:
    """Spawn a child without an owner; bury it in the end."""
    log = ChildLog(spec.log_path)
    log.begin_run()
    listener = open_listener(spec.host, spec.port)
    child = Child.spawn(spec, listener, log, lambda: None, time.monotonic, lambda _: None)
    try:
        yield child
    finally:
        await child.bury()
        log.close()


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("exit 0", "exited with status 0"),
        ("echo why >&2; exit 7", "exited with status 7: why"),
        ("printf 'no end' >&2; exit 7", "exited with status 7: no end"),
        ("kill -SEGV $$", "was ended by a signal (Segmentation fault)"),
        ("kill -KILL $$", "was ended by a signal (Killed, perhaps for want of memory)"),
        ("kill -KILL $PPID; sleep 60", "was taken down with its guardian"),
    ],
)
async def test_each_end_has_its_words(yard: Yard, script: str, told: str) -> None:
    """How a child ended is told with status or signal, and its last word on stderr."""
    spec = yard.spec(argv=("sh", "-c", script), env={"PATH": "/bin:/usr/bin"})
    async with run(spec) as child:
        await until(lambda: child.gone)
        await child.bury()
        assert child.describe_end() == told
        assert child.memory_mb() is None
    assert "gone=True" in repr(child)


async def test_progress_and_failure_are_heard(yard: Yard) -> None:
    """What the child says on the ready pipe is kept, cut to a length that fits a message."""
    async with run(yard.spec("--progress", "p" * 9000, "--fail", "f" * 9000)) as child:
        await until(lambda: child.progress is not None and child.failure is not None)
        assert child.progress == "p" * 500
        assert child.describe_end() == "f" * 500
        assert not child.ready


async def test_an_environment_larger_than_a_pipe(yard: Yard) -> None:
    """A megabyte of environment reaches the child without blocking the loop."""
    env = {f"LARGE_{number}": "x" * 100_000 for number in range(10)}
    async with run(yard.spec(env=env)) as child:
        await until(lambda: child.ready)


async def test_burying_the_living(yard: Yard) -> None:
    """A child can be buried at any time: its guardian is killed and the tree with it."""
    spec = yard.spec("--fork-grandchild", "plain", "--pids", str(yard.folder / "pids"))
    async with run(spec) as child:
        await until(lambda: child.ready)
        await child.bury()
        assert all(is_gone(pid) for pid in [child.guardian_pid, *yard.pids()])


async def test_a_guardian_that_hangs(yard: Yard) -> None:
    """Even a guardian that is stopped, and a child with it, can be buried."""
    async with run(yard.spec()) as child:
        await until(lambda: child.ready)
        os.kill(child.guardian_pid, signal.SIGSTOP)
        assert child.pid is not None
        os.kill(child.pid, signal.SIGSTOP)
        await child.bury()
        assert is_gone(child.pid)


async def test_a_guardian_that_cannot_be_started_leaves_nothing(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without means for a guardian an error is raised, and socket and pipes are closed."""
    spec = yard.spec()
    listener = open_listener(spec.host, spec.port)
    monkeypatch.setattr(sys, "executable", "/nonexistent")
    with pytest.raises(FileNotFoundError):
        Child.spawn(
            spec, listener, ChildLog(spec.log_path), lambda: None, time.monotonic, lambda _: None
        )
    assert listener.fileno() == -1
