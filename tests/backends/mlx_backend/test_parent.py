import json
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from backends.mlx_backend.parent import Parent
from backends.wire import LoadPhase, ModelLoaded, ModelLoading

ENDS_S = 10


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Return the reading and the writing end of a pipe; the test may close them."""
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue


def fill(fd: int) -> int:
    """Write what a pipe takes; returns how much that is."""
    os.set_blocking(fd, False)
    size = 0
    for piece in (4096, 1):
        while True:
            try:
                size += os.write(fd, b"." * piece)
            except BlockingIOError:
                break
    os.set_blocking(fd, True)
    return size


def read_lines(fd: int, skip: int, last: str) -> list[dict[str, Any]]:
    """Read lines behind so many bytes up to the one with this key."""
    with os.fdopen(os.dup(fd), "rb") as file:
        file.read(skip)
        lines: list[dict[str, Any]] = []
        while not lines or last not in lines[-1]:
            lines.append(json.loads(file.readline()))
    return lines


def weights(percent: int) -> ModelLoading:
    """Return progress."""
    return ModelLoading("a", LoadPhase.WEIGHTS, percent)


def test_lines_come_at_once(pipe: tuple[int, int]) -> None:
    """While there is room, each line is in the pipe when `tell` returns."""
    threads = threading.active_count()
    parent = Parent(pipe[1])
    parent.tell(progress="importing")
    parent.tell_news(weights(1))
    parent.tell_news(weights(2))
    told = os.read(pipe[0], 65536).decode().splitlines()
    assert [json.loads(line) for line in told] == [
        {"progress": "importing"},
        {"model_load": {"model": "a", "phase": "weights", "percent": 1}},
        {"model_load": {"model": "a", "phase": "weights", "percent": 2}},
    ]
    assert threading.active_count() == threads


def test_a_parent_that_does_not_read_holds_up_nobody(pipe: tuple[int, int]) -> None:
    """Of the progress that does not fit only the latest is told later; all else is told whole."""
    skip = fill(pipe[1])
    parent = Parent(pipe[1])
    # Room for a part of the next line only.
    os.read(pipe[0], 4096)
    room = 4096 - os.write(pipe[1], b"." * 4086)
    assert room == 10
    parent.tell(progress="x" * 3000)
    for percent in range(100):
        parent.tell_news(weights(percent))
    parent.tell_news(ModelLoaded("a", 1.0))
    parent.tell_news(weights(5))
    parent.tell(ready=True)
    lines = read_lines(pipe[0], skip - room, "ready")
    assert [next(iter(line)) for line in lines] == [
        *("progress", "model_load", "model_loaded", "model_load", "ready")
    ]
    assert lines[0] == {"progress": "x" * 3000}
    assert lines[1]["model_load"]["percent"] == 99
    # The thread that wrote them ends by itself, and lines come at once again.
    writers = [thread for thread in threading.enumerate() if thread.name == "parent"]
    for writer in writers:
        writer.join(ENDS_S)
        assert not writer.is_alive()
    parent.tell(ready=True)
    assert os.read(pipe[0], 100) == b'{"ready": true}\n'


def test_a_line_that_was_begun_is_ended(pipe: tuple[int, int]) -> None:
    """Even progress, of which otherwise only the latest counts, is never cut off."""
    parent = Parent(pipe[1])
    long = ModelLoading("m" * 200_000, LoadPhase.WEIGHTS, 1)
    parent.tell_news(long)
    parent.tell_news(weights(2))
    parent.tell_news(weights(3))
    parent.tell(ready=True)
    first, second, _ = read_lines(pipe[0], 0, "ready")
    assert first["model_load"]["model"] == long.model
    assert second["model_load"]["percent"] == 3


def test_what_is_kept_for_a_parent_is_bounded(pipe: tuple[int, int]) -> None:
    """A parent that never reads costs no memory: the oldest lines are lost."""
    skip = fill(pipe[1])
    parent = Parent(pipe[1])
    for count in range(1000):
        parent.tell_news(ModelLoaded("a", count))
    parent.tell(ready=True)
    lines = read_lines(pipe[0], skip, "ready")
    assert [line["model_loaded"]["load_s"] for line in lines[:-1]] == list(range(901, 1000))


def test_a_thread_that_cannot_be_started_is_started_later(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be written then is, with what comes next."""

    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    skip = fill(pipe[1])
    parent = Parent(pipe[1])
    with monkeypatch.context() as scarce:
        scarce.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError):
            parent.tell(progress="first")
    parent.tell(ready=True)
    assert read_lines(pipe[0], skip, "ready") == [{"progress": "first"}, {"ready": True}]


def test_a_parent_that_has_gone_is_no_failure(pipe: tuple[int, int]) -> None:
    """Neither before nor while something waits to be written."""
    fill(pipe[1])
    parent = Parent(pipe[1])
    parent.tell(progress="waits")
    os.close(pipe[0])
    for thread in threading.enumerate():
        if thread.name == "parent":
            thread.join(ENDS_S)
            assert not thread.is_alive()
    parent.tell(ready=True)
    Parent(None).tell(ready=True)
