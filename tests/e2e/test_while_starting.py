"""Warm elsewhere: others serve until a local process is ready, where the map says so."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.children import Yard, until
from tests.harness.one_provider import HELLO
from tests.harness.running_router import openai_provider
from tests.harness.scripted_upstream import ScriptedUpstream
from tests.harness.served import Served, fake_builtin, served


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    """Lend a folder for a fake child."""
    made = Yard(tmp_path)
    yield made
    made.close()


def settings(yard: Yard, fm: ScriptedUpstream, *switches: str, **binding: Any) -> dict[str, Any]:
    """Return settings in which a fake child serves first, and a provider second."""
    found = fake_builtin(yard.folder, *switches, start="on_demand")
    found["providers"]["fm"] = openai_provider(fm.url)
    found["capabilities"] = {"text": {"models": ["builtin/fake", "fm/m"], **binding}}
    return found


async def chat(router: Served) -> str:
    """Return who answered a request."""
    answer = await router.client.post("/v1/chat/completions", json=HELLO)
    assert answer.status_code == 200
    return answer.headers["x-signalbox-provider"]


async def test_others_serve_while_a_process_starts(yard: Yard) -> None:
    """Twenty requests go to the next model, one process starts meanwhile, then it is asked."""
    gate = yard.gate("ready")
    journal = yard.folder / "journal"
    switches = ("--ready-gate", str(gate.path), "--journal", str(journal))
    async with (
        ScriptedUpstream() as fm,
        served(yard.folder, **settings(yard, fm, *switches, while_starting="next")) as router,
    ):
        assert await router.state("text") == "stopped"
        assert {await chat(router) for _ in range(20)} == {"fm"}
        assert await router.state("text") == "starting"
        await until(journal.exists)
        assert "request" not in journal.read_text()
        gate.open()
        await router.until("ready")
        # What it says is no chat completion, so that the next one answers in the end.
        assert await chat(router) == "fm"
        await until(lambda: "request" in journal.read_text())
        assert journal.read_text().count("start") == 1


async def test_by_default_a_request_waits_for_its_process(yard: Yard) -> None:
    """Without that word nothing is sent anywhere until the first model's process is ready."""
    gate = yard.gate("ready")
    async with (
        ScriptedUpstream() as fm,
        served(yard.folder, **settings(yard, fm, "--ready-gate", str(gate.path))) as router,
    ):
        asked = asyncio.create_task(chat(router))
        await router.until("starting")
        assert fm.seen == []
        gate.open()
        await asked


async def test_a_process_that_is_awaited_all_the_same_when_nobody_else_can(yard: Yard) -> None:
    """When the others fail, the request waits for the process that it passed over."""
    gate = yard.gate("ready")
    journal = yard.folder / "journal"
    switches = ("--ready-gate", str(gate.path), "--journal", str(journal))
    async with ScriptedUpstream() as fm:
        found = settings(yard, fm, *switches, while_starting="next")
    # The provider is gone now.
    async with served(yard.folder, **found) as router:
        asked = asyncio.create_task(router.client.post("/v1/chat/completions", json=HELLO))
        await router.until("starting")
        gate.open()
        answer = await asked
        assert "request" in journal.read_text()
        # The first error counts: that of the provider which was tried in its place.
        assert answer.json()["error"]["code"] == "upstream_unreachable"
