"""The stored assignments, read at start with the standard library so that nothing heavy loads.

`store` writes them; the table's name and columns are the contract between the two.
"""

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from router.capabilities import Capability

TABLE = "capability_assignment"
# Bumped with every change of the schema; a database of a newer Signalbox is refused.
SCHEMA_VERSION = 2
_HAS_TABLE = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"


class StoreError(Exception):
    """The database cannot be used; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Override:
    """An assignment made at run time: it stands in place of the file's until it is reset."""

    models: tuple[str, ...]
    since: str


def read_overrides(database: Path) -> Mapping[Capability, Override]:
    """Return the stored assignments; none when there is no database yet. Raises StoreError."""
    known = set(Capability)
    return {
        Capability(capability): Override(tuple(json.loads(models)), since)
        for capability, models, since in read_table(database, TABLE, "capability, models, since")
        if capability in known
    }


def read_table(database: Path, table: str, columns: str) -> list[tuple[Any, ...]]:
    """Return the rows of one table, oldest first; none when it is not there yet.

    Raises StoreError when the file is no database of ours, or a newer one.
    """
    if not database.exists():
        return []
    query = f"SELECT {columns} FROM {table} ORDER BY id"  # noqa: S608 constant names
    try:
        with closing(
            sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)
        ) as connection:
            check_version(connection.execute("PRAGMA user_version").fetchone()[0], database)
            # A router that was killed while making the database left it without tables.
            made = connection.execute(_HAS_TABLE, (table,)).fetchone() is not None
            return connection.execute(query).fetchall() if made else []
    except sqlite3.OperationalError as error:
        raise StoreError(
            f"{database} cannot be read now ({error}). "
            "Close whatever else has it open, then start again."
        ) from error
    except (sqlite3.DatabaseError, ValueError) as error:
        raise StoreError(
            f"{database} cannot be read as Signalbox's database ({error}). "
            "Move it away to start with the assignments of the configuration file."
        ) from error


def check_version(version: int, database: Path) -> None:
    """Raise StoreError when the database was written by a newer Signalbox."""
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"{database} was written by a newer Signalbox (schema {version}, this one knows "
            f"{SCHEMA_VERSION}). Upgrade Signalbox, or move the file away to start afresh."
        )
