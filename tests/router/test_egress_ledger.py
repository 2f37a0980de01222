"""The figures of what went out, kept in a file."""

import asyncio
import threading
from pathlib import Path

import pytest

from router import egress_ledger
from router.egress import Egress, Row, Tariff
from router.egress_ledger import EgressLedger
from tests.harness.children import until


class Held(EgressLedger):
    """A ledger whose first write waits until it is let go."""

    def __init__(self, egress: Egress, path: Path) -> None:
        super().__init__(egress, path)
        self.begun = asyncio.Event()
        self.go = threading.Event()
        self._writes = 0
        self._loop = asyncio.get_running_loop()

    def _write(self, rows: list[Row]) -> None:
        self._writes += 1
        if self._writes == 1:
            self._loop.call_soon_threadsafe(self.begun.set)
            self.go.wait(10)
        super()._write(rows)


def ask(egress: Egress) -> None:
    """Count one request."""
    with egress.account("p", "local", "p/m", 3):
        pass


async def test_the_last_write_is_not_overtaken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop waits for the write that is under way, whose figures are older than the last ones."""
    monkeypatch.setattr(egress_ledger, "_EVERY_S", 0.01)
    egress = Egress(Tariff())
    async with asyncio.timeout(10), Held(egress, tmp_path / "egress.db") as ledger:
        ask(egress)
        await ledger.begun.wait()
        ask(egress)
        asyncio.get_running_loop().call_later(0.05, ledger.go.set)
    # Whatever was left to a thread comes to its end.
    await asyncio.get_running_loop().shutdown_default_executor()
    again = Egress(Tariff())
    async with EgressLedger(again, tmp_path / "egress.db"):
        ((_, _, _, sent),) = again.rows()
    assert sent.requests == 2


async def test_figures_are_written_while_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only at the stop, which a router that is killed does not come to."""
    monkeypatch.setattr(egress_ledger, "_EVERY_S", 0.01)
    egress = Egress(Tariff())

    def written() -> list[int]:
        again = Egress(Tariff())
        EgressLedger(again, tmp_path / "egress.db").read()
        return [sent.requests for *_, sent in again.rows()]

    async with EgressLedger(egress, tmp_path / "egress.db"):
        for number in (1, 2):
            ask(egress)
            await until(lambda number=number: written() == [number])  # type: ignore[misc]
