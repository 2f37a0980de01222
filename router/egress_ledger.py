"""What `egress` counted, kept in a file of its own: read at start, written every few seconds.

With the standard library's sqlite3, since nothing heavy may load at start, and apart from the
assignments, since losing it loses figures only.
"""

import asyncio
import logging
import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from router.egress import Egress, Row, Sent

log = logging.getLogger(__name__)
_EVERY_S = 5.0
_TABLE = """
CREATE TABLE IF NOT EXISTS egress (
    day TEXT, provider TEXT, locality TEXT, requests INTEGER, bytes_out INTEGER,
    prompt_tokens INTEGER, completion_tokens INTEGER, untold INTEGER, cost REAL,
    PRIMARY KEY (day, provider, locality)
)
"""
_READ = (
    "SELECT day, provider, locality, requests, bytes_out, prompt_tokens, completion_tokens, "
    "untold, cost FROM egress"
)
_WRITE = "INSERT OR REPLACE INTO egress VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"


class EgressLedger:
    """Keeps an Egress in a file. A file that cannot be used is told once, and stops nobody."""

    def __init__(self, egress: Egress, path: Path) -> None:
        self._egress = egress
        self._path = path
        self._complained = False
        self._ending = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Read, and keep what changes from now on."""
        self.read()
        self._keeping = asyncio.create_task(  # noqa: TID251 owned here, awaited in __aexit__
            self._keep(), name="egress ledger"
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Write what is left.

        A write that is under way comes to its end first: what it began with is older.
        """
        self._ending.set()
        if self._keeping is not None:
            await self._keeping
        await self.write()

    def read(self) -> None:
        """Take over what an earlier run has written."""
        if not self._path.exists():
            return
        try:
            with closing(sqlite3.connect(self._path)) as connection:
                connection.execute(_TABLE)
                rows = connection.execute(_READ).fetchall()
        except sqlite3.Error as error:
            self._complain(error)
            return
        self._egress.restore(
            (day, provider, locality, Sent(*figures)) for day, provider, locality, *figures in rows
        )

    async def _keep(self) -> None:
        while not self._ending.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(_EVERY_S):
                    await self._ending.wait()
            await self.write()

    async def write(self) -> None:
        """Write what has changed since the last time."""
        rows = self._egress.take_changes()
        if not rows:
            return
        try:
            await asyncio.to_thread(self._write, rows)
        except (OSError, sqlite3.Error) as error:
            self._egress.keep_changes(rows)
            self._complain(error)

    def _write(self, rows: list[Row]) -> None:
        # Made by us: SQLite would let others read it.
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
        with closing(sqlite3.connect(self._path)) as connection, connection:
            connection.execute(_TABLE)
            connection.executemany(
                _WRITE,
                [
                    (
                        day,
                        provider,
                        locality,
                        sent.requests,
                        sent.bytes_out,
                        sent.prompt_tokens,
                        sent.completion_tokens,
                        sent.untold,
                        sent.cost,
                    )
                    for day, provider, locality, sent in rows
                ],
            )

    def _complain(self, error: Exception) -> None:
        if not self._complained:
            self._complained = True
            log.warning(
                "what goes to providers is counted, but %s cannot be used (%s): "
                "the figures end with this run",
                self._path.name,
                error,
            )
