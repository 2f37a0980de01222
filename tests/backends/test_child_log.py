import resource
import signal
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.child_log import ChildLog


def make(tmp_path: Path, cap_bytes: int = 1000) -> ChildLog:
    """Return a log that has begun a run."""
    log = ChildLog(tmp_path / "logs" / "child.log", cap_bytes)
    log.begin_run()
    return log


def test_keeps_a_copy_and_the_lines(tmp_path: Path) -> None:
    """The file holds every byte; the ring holds the lines of both streams in order."""
    log = make(tmp_path)
    log.feed(b"one\ntw", is_error=False)
    log.feed(b"bad\n", is_error=True)
    log.feed(b"o\n", is_error=False)
    log.close()
    assert (tmp_path / "logs" / "child.log").read_bytes() == b"one\ntwbad\no\n"
    assert log.lines == ["one", "bad", "two"]
    assert log.last_error_line == "bad"


def test_the_file_is_private(tmp_path: Path) -> None:
    """Only the owner can read what a child says."""
    make(tmp_path).close()
    assert stat.S_IMODE((tmp_path / "logs" / "child.log").stat().st_mode) == 0o600


@given(st.lists(st.binary(max_size=3000), max_size=10))
def test_never_grows_beyond_its_cap(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes]
) -> None:
    """Whatever comes, the file and its predecessor hold the end of it, each within the cap."""
    folder = tmp_path_factory.mktemp("log")
    log = make(folder)
    for chunk in chunks:
        log.feed(chunk, is_error=False)
    log.close()
    now, before = folder / "logs" / "child.log", folder / "logs" / "child.log.1"
    kept = (before.read_bytes() if before.exists() else b"") + now.read_bytes()
    assert now.stat().st_size <= 1000
    assert not before.exists() or before.stat().st_size == 1000
    assert b"".join(chunks).endswith(kept)
    assert len(kept) >= min(1000, len(b"".join(chunks)))


def test_goes_on_where_the_last_run_ended(tmp_path: Path) -> None:
    """A second log on the same path appends, and counts what is there."""
    first = make(tmp_path)
    first.feed(b"x" * 900, is_error=False)
    first.close()
    second = make(tmp_path)
    second.feed(b"y" * 200, is_error=False)
    second.close()
    assert (tmp_path / "logs" / "child.log.1").read_bytes() == b"x" * 900 + b"y" * 100
    assert (tmp_path / "logs" / "child.log").read_bytes() == b"y" * 100


def test_a_line_without_an_end_is_cut(tmp_path: Path) -> None:
    """A megabyte without a newline takes two kilobytes of memory and is one short line."""
    log = make(tmp_path, 1 << 30)
    for _ in range(16):
        log.feed(b"x" * 65536, is_error=True)
    log.feed(b"\nnext\n", is_error=True)
    log.close()
    assert [len(line) for line in log.lines] == [2000, 4]


def test_an_unfinished_line_counts_at_the_end_of_the_run(tmp_path: Path) -> None:
    """The last word of a dying child is its error, with or without a newline."""
    log = make(tmp_path)
    log.feed(b"dying\nwith this", is_error=True)
    assert log.last_error_line == "dying"
    log.end_run()
    assert log.last_error_line == "with this"
    log.begin_run()
    assert log.last_error_line == ""
    log.close()


def test_what_people_see_is_harmless(tmp_path: Path) -> None:
    """Terminal sequences and control characters stay in the file, not in the ring."""
    log = make(tmp_path)
    log.feed(b"\x1b[31mred\x1b[0m \x07\xff\x00bell\r\n \t\n", is_error=False)
    log.close()
    assert log.lines == ["red �bell"]


def test_the_ring_is_bounded(tmp_path: Path) -> None:
    """Only the last lines are kept in memory."""
    log = make(tmp_path, 1 << 20)
    log.feed(b"".join(b"%d\n" % number for number in range(1000)), is_error=False)
    log.close()
    assert log.lines[0] == "800"
    assert log.lines[-1] == "999"


def test_a_full_disk_loses_the_copy_not_the_drain(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """When the file cannot grow any more the lines still arrive, and it is said once."""
    log = make(tmp_path, 1 << 20)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        for _ in range(3):
            log.feed(b"x" * 99 + b"\n", is_error=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, old)
    assert len(log.lines) == 3
    assert len([record for record in caplog.records if "given up" in record.message]) == 1


def test_a_folder_that_cannot_be_made(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without a place for the file the ring works all the same."""
    (tmp_path / "logs").write_text("in the way", encoding="ascii")
    log = ChildLog(tmp_path / "logs" / "child.log")
    log.begin_run()
    log.feed(b"line\n", is_error=False)
    log.close()
    assert log.lines == ["line"]
    assert "no log file" in caplog.text
    assert (tmp_path / "logs").is_file()
