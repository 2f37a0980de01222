"""That the configuration file changed is noticed, however it changed."""

import asyncio
import os
import signal
from pathlib import Path

from tests.harness.running_router import RunningRouter, running_router, save
from tests.harness.served import served

_WATCH_S = 0.02


async def _aliases(signalbox: RunningRouter, expected: set[str], within_s: float = 5.0) -> None:
    """Return when these aliases, and no others, are in force."""
    async with asyncio.timeout(within_s):
        while set(signalbox.router.capability_map.catalog.aliases) != expected:
            await asyncio.sleep(0.005)


async def test_a_saved_file_is_in_force_without_being_asked_for(tmp_path: Path) -> None:
    """Renamed into place, as editors do, or written over."""
    async with running_router(tmp_path, watch_s=_WATCH_S) as signalbox:
        save(tmp_path, aliases={"a": "auto"})
        await _aliases(signalbox, {"a"})
        save(tmp_path, aliases={"b": "auto"})
        await _aliases(signalbox, {"b"})
        config = tmp_path / "router.yaml"
        config.write_text(config.read_text("utf-8").replace('"b"', '"in_place"'), "utf-8")
        await _aliases(signalbox, {"in_place"})


async def test_a_faulty_file_is_told_once_and_its_cure_is_taken(tmp_path: Path) -> None:
    """Nothing is said again and again of a file that does not change."""
    async with running_router(tmp_path, watch_s=_WATCH_S, aliases={"a": "auto"}) as signalbox:
        configuration = signalbox.router.configuration
        (tmp_path / "router.yaml").write_text("aliases: {b: auto", encoding="utf-8")
        async with asyncio.timeout(5):
            while not configuration.faults:
                await asyncio.sleep(0.005)
        faults = configuration.faults
        await asyncio.sleep(0.05)
        # The very same: it was not read again.
        assert configuration.faults is faults
        await _aliases(signalbox, {"a"})
        save(tmp_path, aliases={"b": "auto"})
        await _aliases(signalbox, {"b"})
        assert configuration.faults == ()


async def test_a_file_that_goes_away_changes_nothing(tmp_path: Path) -> None:
    """Its absence is a fault like others; it is read when it is back."""
    async with running_router(tmp_path, watch_s=_WATCH_S, aliases={"a": "auto"}) as signalbox:
        (tmp_path / "router.yaml").unlink()
        async with asyncio.timeout(5):
            while not signalbox.router.configuration.faults:
                await asyncio.sleep(0.005)
        assert "there is no such file" in signalbox.router.configuration.faults[0]
        await _aliases(signalbox, {"a"})
        save(tmp_path, aliases={"c": "auto"})
        await _aliases(signalbox, {"c"})


async def test_sighup_has_the_file_and_the_keys_read_again(tmp_path: Path) -> None:
    """A process without a terminal goes on, with what the file says now."""
    key = tmp_path / "key"
    cloud = {"kind": "openai", "base_url": "http://127.0.0.1:9/v1", "api_key": {"file": str(key)}}
    async with served(tmp_path, providers={"cloud": cloud}) as router:
        row = (await router.client.get("/admin/providers/cloud")).json()
        assert row["state"] == "disabled"
        key.write_text("sk-1", encoding="ascii")
        key.chmod(0o600)
        os.kill(router.process.pid, signal.SIGHUP)
        async with asyncio.timeout(10):
            while row["state"] != "ok":
                await asyncio.sleep(0.01)
                row = (await router.client.get("/admin/providers/cloud")).json()
        assert router.process.returncode is None


async def test_a_file_that_is_being_written_is_left_alone(tmp_path: Path) -> None:
    """Half of it is no fault: it is read when it has come to rest."""
    async with running_router(tmp_path, watch_s=_WATCH_S, aliases={"a": "auto"}) as signalbox:
        configuration = signalbox.router.configuration
        config = tmp_path / "router.yaml"
        whole = config.read_text(encoding="utf-8").replace('"a"', '"b"')
        for length in range(1, 40):
            config.write_text(whole[:length], encoding="utf-8")
            await asyncio.sleep(_WATCH_S / 4)
            assert configuration.faults == ()
        await _aliases(signalbox, {"a"})
        config.write_text(whole, encoding="utf-8")
        await _aliases(signalbox, {"b"})
