"""Stored assignments as the start reads them and as the store writes them."""

import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from router.capabilities import Capability
from router.overrides import StoreError, read_overrides
from router.store import Store


def test_what_the_store_writes_is_what_the_start_reads(tmp_path: Path) -> None:
    """Saving, replacing and deleting assignments are seen by the reader."""
    database = tmp_path / "s.db"
    assert read_overrides(database) == {}
    store = Store(database)
    store.save_assignment(Capability.TEXT, ("a/x",))
    saved = store.save_assignment(Capability.TEXT, ("a/y", "b/z"))
    store.save_assignment(Capability.VISION, ())
    assert read_overrides(database)[Capability.TEXT] == saved
    assert read_overrides(database)[Capability.VISION].models == ()
    store.delete_assignment(Capability.TEXT)
    store.delete_assignment(Capability.TEXT)
    assert set(read_overrides(database)) == {Capability.VISION}
    store.close()


@pytest.mark.parametrize("name", ["a#b", "a?b", "a%41", "a b"])
def test_a_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    """What means something in an address means nothing in a path: nothing is lost or misplaced."""
    database = tmp_path / name / "s.db"
    database.parent.mkdir()
    store = Store(database)
    saved = store.save_assignment(Capability.TEXT, ("a/x",))
    store.close()
    assert read_overrides(database) == {Capability.TEXT: saved}
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("content", [b"not a database", b"SQLite format 3\x00" + b"x" * 500])
def test_a_file_that_is_no_database_is_refused_and_left_alone(
    tmp_path: Path, content: bytes
) -> None:
    """A broken database stops the start with a text that says what to do; it is never wiped."""
    database = tmp_path / "s.db"
    database.write_bytes(content)
    with pytest.raises(StoreError, match="Move it away"):
        read_overrides(database)
    assert database.read_bytes() == content


def test_a_database_without_tables_holds_no_assignments(tmp_path: Path) -> None:
    """A kill while the database was being made is no reason to refuse the next start."""
    database = tmp_path / "s.db"
    database.touch()
    assert read_overrides(database) == {}


def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    """What a newer Signalbox wrote is neither read nor written."""
    database = tmp_path / "s.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA user_version = 99")
        connection.commit()
    with pytest.raises(StoreError, match="newer Signalbox"):
        read_overrides(database)
    store = Store(database)
    with pytest.raises(StoreError, match="newer Signalbox"):
        store.save_assignment(Capability.TEXT, ())
    store.close()


def test_the_database_is_for_its_owner_alone(tmp_path: Path) -> None:
    """Nobody else on the machine may read what is assigned."""
    database = tmp_path / "s.db"
    store = Store(database)
    store.save_assignment(Capability.TEXT, ("a/x",))
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    store.close()
    assert modes == dict.fromkeys(("s.db", "s.db-wal", "s.db-shm"), 0o600)
