"""Files from folders that somebody named."""

import os
import threading
from pathlib import Path

import pytest

from router.errors import RouteFailed
from router.images.local_file import read_local


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a folder with one file in it."""
    folder = tmp_path / "there"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"12345")
    return folder


def test_a_root_is_its_owners_links_and_all(tmp_path: Path, root: Path) -> None:
    """One that is a link is named by its own name or by where it leads."""
    link = tmp_path / "link"
    link.symlink_to(root)
    assert read_local(f"{link}/a.png", [link], 5) == b"12345"
    assert read_local(f"{root}/a.png", [link], 5) == b"12345"
    with pytest.raises(RouteFailed):
        read_local(f"{link}/a.png", [root], 5)


def test_the_first_root_that_holds_a_path_decides(tmp_path: Path, root: Path) -> None:
    """And one that is not there harms no other."""
    assert read_local(f"{root}/a.png", [tmp_path / "gone", root], 5) == b"12345"
    assert read_local(f"{root}/a.png", [Path("/")], 5) == b"12345"


def test_a_file_has_its_cap(root: Path) -> None:
    """One byte more is too many."""
    with pytest.raises(RouteFailed) as caught:
        read_local(f"{root}/a.png", [root], 4)
    assert caught.value.code == "invalid_image"


def test_who_has_no_home_has_no_path_there(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And `~` of somebody else is nobody's."""
    monkeypatch.setenv("HOME", str(root))
    assert read_local("~/a.png", [root], 5) == b"12345"
    with pytest.raises(RouteFailed):
        read_local("~nobody/a.png", [root], 5)
    with pytest.raises(RouteFailed):
        read_local("\ud800", [root], 5)


def test_what_may_not_be_read_is_as_if_it_were_missing(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that is taken away in between, too."""
    texts = set()
    for path in (f"{root}/a.png/b", f"{root}/gone/a.png", str(root)):
        with pytest.raises(RouteFailed) as caught:
            read_local(path, [root], 5)
        texts.add(caught.value.message)
    assert len(texts) == 1


def test_a_file_that_is_written_meanwhile_is_refused(root: Path) -> None:
    """As soon as its time tells: nobody wants half of one picture and half of another."""
    file = root / "a.png"
    file.write_bytes(bytes(1 << 21))
    over = threading.Event()

    def write() -> None:
        with file.open("r+b", buffering=0) as opened:
            while not over.is_set():
                os.pwrite(opened.fileno(), bytes(1 << 21), 0)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with pytest.raises(RouteFailed) as caught:
            for _ in range(1000):
                read_local(str(file), [root], 1 << 22)
    finally:
        over.set()
        writer.join()
    assert caught.value.code == "image_not_found"


def test_who_waits_at_a_fifo_is_not_let_through(root: Path) -> None:
    """It is not opened to find out what it is: a program may wait for its reader."""
    fifo = root / "fifo.png"
    os.mkfifo(fifo)
    writer = threading.Thread(target=lambda: fifo.open("wb").close())
    writer.start()
    for _ in range(20):
        with pytest.raises(RouteFailed):
            read_local(str(fifo), [root], 5)
        writer.join(0.01)
    assert writer.is_alive()
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    writer.join()
    os.close(reader)
