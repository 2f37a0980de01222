"""After every test nothing is left: no task, descriptor, thread or child process.

Two fixtures, registered in `tests/conftest.py`: one for every test, set up first and hence torn
down last, after the event loop is closed; one inside the loop, for async tests only.
"""

import asyncio
import gc
import inspect
import os
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest
import uvloop

_FDS = Path("/proc/self/fd" if Path("/proc/self/fd").is_dir() else "/dev/fd")
_SETTLE_S = 1.0
# Opened once by the interpreter or a library and kept for the life of the process.
_LIBRARY_THREADS = frozenset({"tqdm_monitor"})
_LIBRARY_FDS = ("/dev/urandom", "/dev/null", "/dev/nvidia", ".hypothesis", ".coverage")


def open_fds() -> dict[int, str]:
    """Return every open descriptor of this process and what it is."""
    found = {}
    # Read to its end first, so that the listing's own descriptor is closed and none of them.
    for path in list(_FDS.iterdir()):
        try:
            found[int(path.name)] = str(path.readlink())
        except OSError:  # closed; or /dev/fd, which has no links
            if _is_open(int(path.name)):
                found[int(path.name)] = "open"
    return found


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def children() -> dict[int, str]:
    """Return this process's children, zombies too; costs one system call when there are none."""
    if hasattr(os, "waitid"):  # not on macOS
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return {}
    found = {}
    for child in psutil.Process().children():
        try:
            found[child.pid] = f"{child.status()}: {' '.join(child.cmdline())}"
        except psutil.Error:
            continue
    return found


def left_fds(before: dict[int, str]) -> dict[int, str]:
    """Return the descriptors that were opened since and are not a library's for good."""
    now = {fd: what for fd, what in open_fds().items() if before.get(fd) != what}
    return {fd: what for fd, what in now.items() if not any(part in what for part in _LIBRARY_FDS)}


def left_threads(before: set[threading.Thread]) -> list[threading.Thread]:
    """Return the threads that were started since and do not end by themselves within a second."""
    started = [
        thread
        for thread in threading.enumerate()
        if thread not in before and thread.name not in _LIBRARY_THREADS
    ]
    for thread in started:
        if thread is not threading.current_thread():
            thread.join(_SETTLE_S)
    return [thread for thread in started if thread.is_alive()]


@pytest.fixture(scope="session")
def _libuv_is_awake() -> None:
    """Let libuv open its signal pipe, one for the life of the process, before the first count."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.sleep(0))


@pytest.fixture(autouse=True)
def nothing_left(_libuv_is_awake: None) -> Iterator[None]:
    """Fail a test that leaves a descriptor, a thread or a child."""
    fds, threads, before = open_fds(), set(threading.enumerate()), children()
    yield
    left = left_fds(fds)
    if left:
        # An object in a reference cycle is no leak if its collection closes it silently; one that
        # should have been closed warns, and warnings are errors.
        gc.collect()
        left = left_fds(fds)
    problems = [f"descriptor {fd}: {what}" for fd, what in left.items()]
    problems += [f"thread {thread.name}" for thread in left_threads(threads)]
    problems += [f"child {pid}: {what}" for pid, what in children().items() if pid not in before]
    if problems:
        pytest.fail("left behind: " + "; ".join(problems), pytrace=False)


@pytest.fixture
async def no_task_left(nothing_left: None) -> AsyncIterator[None]:
    """Fail an async test that leaves a task in its loop."""
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    if left:
        await asyncio.wait(left, timeout=0.05)  # what is ending already may do so
    names = [repr(task) for task in left if not task.done()]
    if names:
        pytest.fail("left behind: " + "; ".join(names), pytrace=False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the fixture of the loop first among the function's own, for async tests only."""
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            names = item.fixturenames
            names.insert(names.index("nothing_left") + 1, "no_task_left")
