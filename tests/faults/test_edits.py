"""What is edited while requests run, and edits that cannot be."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.harness.children import until
from tests.harness.edited import gated, reload, stream
from tests.harness.one_provider import DELTA, DONE, HELLO, STOP
from tests.harness.running_router import openai_provider, running_router, save
from tests.harness.scripted_upstream import ScriptedUpstream


async def test_row_128_a_removed_provider_ends_its_stream_and_then_its_connections(
    tmp_path: Path,
) -> None:
    """What is in flight goes on; the connection is closed after it, and nobody new comes."""
    gate = asyncio.Event()
    async with ScriptedUpstream(gated(gate)) as fm:
        there: dict[str, Any] = {
            "providers": {"fm": openai_provider(fm.url)},
            "capabilities": {"text": ["fm/m"]},
        }
        async with running_router(tmp_path, **there) as signalbox:
            running = asyncio.create_task(stream(signalbox))
            await until(lambda: fm.seen)
            save(tmp_path)
            told = await reload(signalbox)
            assert told["changed"] == ["providers.fm", "capabilities.text"]
            refused = await signalbox.chat(HELLO)
            assert refused.json()["error"]["code"] == "capability_not_assigned"
            assert signalbox.router.configuration._reaches.retired == 1
            gate.set()
            assert await running == DELTA + DELTA + STOP + DONE
            await until(lambda: signalbox.router.configuration._reaches.retired == 0)
            await until(lambda: fm.open_connections == 0, within_s=1.0)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("providers: {fm: {kind: openai, base_url: ftp://x}}", "providers.fm.base_url"),
        ("providers: [", "router.yaml:2"),
        ("local_onyl: true", "local_onyl: unknown key (did you mean local_only?)"),
        ("downloads: {proxy: 'http://127.0.0.1:1'}", "downloads.proxy"),
        (
            "providers: {t: {kind: openai, base_url: 'https://c.example/v1', ca_file: /none.pem}}",
            "providers.t.ca_file",
        ),
    ],
)
async def test_row_129_an_invalid_file_changes_nothing_and_says_why(
    tmp_path: Path, text: str, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The answer, the log and the status name the place; requests go on as before."""
    async with ScriptedUpstream() as fm:
        there: dict[str, Any] = {
            "providers": {"fm": openai_provider(fm.url)},
            "capabilities": {"text": ["fm/m"]},
        }
        async with running_router(tmp_path, **there) as signalbox:
            reach, catalog = signalbox.router.reaches["fm"], signalbox.router.capability_map.catalog
            (tmp_path / "router.yaml").write_text(text, encoding="utf-8")
            response = await signalbox.client.post("/admin/reload")
            error = response.json()["error"]
            assert (response.status_code, error["code"]) == (400, "invalid_configuration")
            assert place in error["message"]
            assert place in caplog.text
            assert place in (await signalbox.client.get("/admin/status")).json()["faults"][0]
            assert signalbox.router.capability_map.catalog is catalog
            assert signalbox.router.reaches == {"fm": reach}
            assert (await signalbox.chat(HELLO)).status_code == 200
            save(tmp_path, **there)
            assert (await reload(signalbox))["changed"] == []
            assert (await signalbox.client.get("/admin/status")).json()["faults"] == []
            assert signalbox.router.reaches == {"fm": reach}
