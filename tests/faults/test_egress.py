"""What goes to whom is counted, told, kept, and stopped where its owner says so."""

import asyncio
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from router.egress import Egress, Tariff
from router.egress_ledger import EgressLedger
from tests.harness.edited import gated, in_flight
from tests.harness.one_provider import DELTA, DONE, HELLO, STOP, STREAMED
from tests.harness.running_router import RunningRouter, openai_provider, running_router, save
from tests.harness.scripted_upstream import Conversation, Script, ScriptedUpstream

USAGE = {"prompt_tokens": 30, "completion_tokens": 20, "total_tokens": 50}
TOLD = b'data: {"choices":[],"usage":' + json.dumps(USAGE).encode() + b"}\n\n"


async def spends(conversation: Conversation) -> None:
    """Answer, whole or streamed, and tell the tokens where a stream is asked to."""
    body = conversation.json
    if not body.get("stream"):
        message = {"role": "assistant", "content": "hi"}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        await conversation.answer(json.dumps({"choices": [choice], "usage": USAGE}).encode())
        return
    await conversation.begin_stream()
    for event in (DELTA, STOP):
        await conversation.event(event)
    if (body.get("stream_options") or {}).get("include_usage"):
        await conversation.event(TOLD)
    await conversation.event(DONE)
    await conversation.end_stream()


def bound(fm: ScriptedUpstream, **more: Any) -> dict[str, Any]:
    """Return settings in which one remote provider serves text."""
    provider = openai_provider(fm.url, locality="remote", **more)
    return {
        "providers": {"fm": provider},
        "capabilities": {"text": ["fm/m"]},
        "models": {"fm/m": {"price": {"prompt": 100.0, "completion": 1000.0}}},
    }


async def row(signalbox: RunningRouter) -> Any:
    """Return the only row of what went out."""
    (only,) = (await signalbox.client.get("/admin/egress")).json()["data"]
    return only


async def test_what_leaves_is_counted_by_provider_and_day(tmp_path: Path) -> None:
    """Requests, bytes and told tokens; a stream that tells none counts as untold."""
    async with ScriptedUpstream(spends) as fm, running_router(tmp_path, **bound(fm)) as signalbox:
        assert (await signalbox.client.get("/admin/egress")).json() == {"data": []}
        await signalbox.chat(HELLO)
        await signalbox.chat(STREAMED)
        told = await row(signalbox)
        assert (told["provider"], told["locality"]) == ("fm", "remote")
        assert (told["requests"], told["untold"]) == (2, 1)
        assert (told["prompt_tokens"], told["completion_tokens"]) == (30, 20)
        assert told["bytes_out"] == sum(len(each.body) for each in fm.seen)
        assert told["cost"] == pytest.approx(0.023)
        nothing = await signalbox.client.get("/admin/egress", params={"since": "2999-01-01"})
        assert nothing.json() == {"data": []}
        # Nobody limits the tokens: the request is as its client wrote it.
        assert "stream_options" not in fm.seen[1].json


async def test_what_waited_is_counted_to_where_it_leads_when_it_leaves(tmp_path: Path) -> None:
    """Its provider was said to be here when it came, and turns out to be remote meanwhile."""
    go, asked = asyncio.Event(), asyncio.Event()

    async def script(conversation: Conversation) -> None:
        asked.set()
        await go.wait()
        await conversation.answer()

    async with ScriptedUpstream(script) as fm:
        settings = {**bound(fm), "lanes": {"fm": {"concurrency": 1, "reserve_high": 0}}}
        settings["providers"]["fm"]["locality"] = "local"
        async with running_router(tmp_path, **settings) as signalbox:
            first = asyncio.create_task(signalbox.chat(HELLO))
            await asked.wait()
            second = asyncio.create_task(signalbox.chat(HELLO))
            await in_flight(signalbox, 2)
            settings["providers"]["fm"]["locality"] = "remote"
            save(tmp_path, **settings)
            await signalbox.client.post("/admin/reload")
            go.set()
            assert [(await each).status_code for each in (first, second)] == [200, 200]
            rows = (await signalbox.client.get("/admin/egress")).json()["data"]
    assert {each["locality"]: each["requests"] for each in rows} == {"local": 1, "remote": 1}


async def test_the_figures_survive_a_restart_and_are_the_owners_alone(tmp_path: Path) -> None:
    """They are written at the stop, into a file that nobody else may read."""
    async with ScriptedUpstream(spends) as fm:
        for expected in (1, 2):
            async with running_router(tmp_path, **bound(fm)) as signalbox:
                await signalbox.chat(HELLO)
                assert (await row(signalbox))["requests"] == expected
    file = tmp_path / "data" / "egress.db"
    assert file.stat().st_mode & 0o777 == 0o600
    assert b"hello" not in file.read_bytes()


async def test_a_file_that_cannot_be_used_stops_nobody(tmp_path: Path) -> None:
    """Requests are served and counted; the log says once that the figures end with this run."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "egress.db").write_bytes(b"no database, but a text of some length" * 40)
    async with ScriptedUpstream(spends) as fm, running_router(tmp_path, **bound(fm)) as signalbox:
        assert (await signalbox.chat(HELLO)).status_code == 200
        assert (await row(signalbox))["requests"] == 1


@pytest.mark.parametrize("body", [HELLO, STREAMED])
@pytest.mark.parametrize(
    ("limit", "allowed"),
    [({"requests": 2}, 2), ({"tokens": 100}, 2), ({"tokens": 51}, 2), ({"cost": 0.03}, 2)],
)
async def test_a_provider_gets_its_daily_share_and_no_more(
    tmp_path: Path, body: Any, limit: dict[str, Any], allowed: int
) -> None:
    """The next request is refused before anything is sent, with a time to come back."""
    async with (
        ScriptedUpstream(spends) as fm,
        running_router(tmp_path, **bound(fm, spend_limit=limit)) as signalbox,
    ):
        for _ in range(allowed):
            assert (await signalbox.chat(body)).status_code == 200
        refused = await signalbox.chat(body)
        error = refused.json()["error"]
        assert (refused.status_code, error["code"]) == (429, "spend_limit_reached")
        assert "providers.fm.spend_limit" in error["message"]
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.headers["x-should-retry"] == "false"
        assert len(fm.seen) == allowed


async def test_who_waited_gets_no_more_than_is_left(tmp_path: Path) -> None:
    """Requests that queued while there was some left are refused once others have used it up."""
    gate = asyncio.Event()
    async with ScriptedUpstream(gated(gate)) as fm:
        settings = {
            **bound(fm, spend_limit={"requests": 2}),
            "lanes": {"fm": {"concurrency": 1, "reserve_high": 0}},
        }
        async with running_router(tmp_path, **settings) as signalbox:
            asked = [asyncio.create_task(signalbox.chat(HELLO)) for _ in range(5)]
            await in_flight(signalbox, 5)
            gate.set()
            statuses = sorted([(await each).status_code for each in asked])
    assert statuses == [200, 200, 429, 429, 429]
    assert len(fm.seen) == 2


async def test_the_next_model_serves_when_one_has_had_its_share(tmp_path: Path) -> None:
    """A limit reached is passed over like a provider that is left alone."""
    async with ScriptedUpstream(spends) as first, ScriptedUpstream(spends) as second:
        settings = bound(first, spend_limit={"requests": 1})
        settings["providers"]["other"] = openai_provider(second.url)
        settings["capabilities"]["text"].append("other/m")
        async with running_router(tmp_path, **settings) as signalbox:
            answers = [await signalbox.chat(HELLO) for _ in range(5)]
    served = [answer.headers["x-signalbox-provider"] for answer in answers]
    assert served == ["fm", "other", "other", "other", "other"]
    assert {answer.headers["x-signalbox-attempts"] for answer in answers} == {"1"}


async def test_who_limits_tokens_has_streams_tell_them(tmp_path: Path) -> None:
    """The provider is asked for them, and the client gets the stream that it asked for."""
    async with (
        ScriptedUpstream(spends) as fm,
        running_router(tmp_path, **bound(fm, spend_limit={"tokens": 10_000})) as signalbox,
    ):
        plain = await signalbox.chat(STREAMED)
        asked = await signalbox.chat(
            {**STREAMED, "stream_options": {"include_usage": True, "x": 1}}
        )
        told = await row(signalbox)
    assert fm.seen[0].json["stream_options"] == {"include_usage": True}
    assert fm.seen[1].json["stream_options"] == {"include_usage": True, "x": 1}
    assert plain.content == DELTA + STOP + DONE
    assert plain.headers["x-signalbox-shims"] == "usage"
    assert asked.content == DELTA + STOP + TOLD + DONE
    assert "x-signalbox-shims" not in asked.headers
    assert (told["prompt_tokens"], told["untold"]) == (60, 0)


def ends_after(*events: bytes) -> Script:
    """Return the script of a provider whose stream ends so."""

    async def script(conversation: Conversation) -> None:
        await conversation.begin_stream()
        for event in events:
            await conversation.event(event)
        conversation.hang_up()

    return script


async def test_what_was_sent_counts_though_the_answer_breaks(tmp_path: Path) -> None:
    """A request that failed has left the machine all the same."""
    async with (
        ScriptedUpstream(ends_after(DELTA)) as fm,
        running_router(tmp_path, **bound(fm)) as signalbox,
    ):
        await signalbox.chat(STREAMED)
        told = await row(signalbox)
    assert (told["requests"], told["untold"]) == (1, 1)


async def test_a_cost_limit_needs_the_price_of_every_model(tmp_path: Path) -> None:
    """A model whose cost cannot be known would spend without being seen."""
    async with ScriptedUpstream(spends) as fm:
        settings = {**bound(fm, spend_limit={"cost": 1.0}), "models": {}}
        with pytest.raises(Exception, match=r"models\.fm/m has no price"):
            async with running_router(tmp_path, **settings):
                pass


def test_a_database_of_figures_is_plain_sqlite(tmp_path: Path) -> None:
    """Anybody may read their own figures without this program."""
    ledger = EgressLedger(Egress(Tariff()), tmp_path / "egress.db")
    with ledger._egress.account("p", "local", "p/m", 3):
        pass
    ledger._write(ledger._egress.take_changes())
    with sqlite3.connect(tmp_path / "egress.db") as connection:
        rows = connection.execute("SELECT provider, locality, requests FROM egress").fetchall()
    connection.close()
    assert rows == [("p", "local", 1)]
