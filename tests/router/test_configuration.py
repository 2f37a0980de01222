"""The configuration file, read again while requests run."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from router.catalog import Alias
from tests.harness.children import until
from tests.harness.edited import gated, in_flight, reload, stream, whole
from tests.harness.one_provider import DELTA, DONE, HELLO, STOP
from tests.harness.running_router import openai_provider, running_router, save
from tests.harness.scripted_upstream import CHAT, Conversation, ScriptedUpstream


async def test_edits_cut_nobody_and_leave_nothing(tmp_path: Path) -> None:
    """200 requests and 50 streams are answered while the file is saved 20 times under them."""
    gate = asyncio.Event()
    async with AsyncExitStack() as stack:
        kept, edited, passing = [
            await stack.enter_async_context(ScriptedUpstream(gated(gate))) for _ in range(3)
        ]

        def sections(edition: int) -> dict[str, Any]:
            providers = {
                "kept": openai_provider(kept.url),
                "edited": openai_provider(edited.url, headers={"X-Edition": str(edition)}),
            }
            if edition % 2:
                providers["passing"] = openai_provider(passing.url)
            first = ("kept", "edited", "passing")[edition % (3 if edition % 2 else 2)]
            return {"providers": providers, "capabilities": {"text": [f"{first}/m"]}}

        signalbox = await stack.enter_async_context(running_router(tmp_path, **sections(1)))
        kept_reach = signalbox.router.reaches["kept"]
        work: list[asyncio.Task[Any]] = []
        for edition in range(2, 22):
            work += [asyncio.create_task(whole(signalbox)) for _ in range(10)]
            work += [asyncio.create_task(stream(signalbox)) for _ in range(3 if edition % 2 else 2)]
            await in_flight(signalbox, len(work))
            save(tmp_path, **sections(edition))
            assert (await reload(signalbox))["changed"]
        assert len(work) == 250
        assert signalbox.router.configuration._reaches.retired > 0
        gate.set()
        answers = await asyncio.gather(*work)
        assert signalbox.router.reaches["kept"] is kept_reach
        await until(lambda: signalbox.router.configuration._reaches.retired == 0)
        for fm in (kept, edited, passing):
            assert fm.seen
        assert "passing" in sections(21)["providers"]
    for answer in answers:
        assert answer in {CHAT, DELTA + DELTA + STOP + DONE}


async def test_local_only_holds_for_whoever_has_not_left_yet(tmp_path: Path) -> None:
    """After the change is acknowledged no prompt leaves, not even one that waited in a lane."""
    gate = asyncio.Event()
    async with ScriptedUpstream(gated(gate)) as fm:
        there: dict[str, Any] = {
            "providers": {"fm": openai_provider(fm.url, locality="remote")},
            "capabilities": {"text": ["fm/m"]},
            "lanes": {"fm": {"concurrency": 1, "reserve_high": 0}},
        }
        async with running_router(tmp_path, **there) as signalbox:
            gone_already = asyncio.create_task(signalbox.chat(HELLO))
            await until(lambda: fm.seen)
            waiting = asyncio.create_task(signalbox.chat(HELLO))
            await in_flight(signalbox, 2)
            save(tmp_path, **there, local_only=True)
            assert (await reload(signalbox))["changed"] == ["local_only"]
            late = await signalbox.chat(HELLO)
            gate.set()
            assert (await gone_already).status_code == 200
            for refused in (late, await waiting):
                error = refused.json()["error"]
                assert (refused.status_code, error["code"]) == (403, "remote_not_allowed")
            assert len(fm.seen) == 1
            save(tmp_path, **there)
            await reload(signalbox)
            assert (await signalbox.chat(HELLO)).status_code == 200


async def test_a_provider_that_becomes_remote_gets_nothing_that_must_stay(tmp_path: Path) -> None:
    """The owner's new word on a locality counts for a request that waits, too."""
    gate = asyncio.Event()
    async with ScriptedUpstream(gated(gate)) as fm:
        there: dict[str, Any] = {
            "providers": {"fm": openai_provider(fm.url)},
            "capabilities": {"text": ["fm/m"]},
            "lanes": {"fm": {"concurrency": 1, "reserve_high": 0}},
            "local_only": True,
        }
        async with running_router(tmp_path, **there) as signalbox:
            first = asyncio.create_task(signalbox.chat(HELLO))
            await until(lambda: fm.seen)
            waiting = asyncio.create_task(signalbox.chat(HELLO))
            await in_flight(signalbox, 2)
            there["providers"]["fm"]["locality"] = "remote"
            save(tmp_path, **there)
            await reload(signalbox)
            gate.set()
            assert (await first).status_code == 200
            assert (await waiting).json()["error"]["code"] == "remote_not_allowed"
            assert len(fm.seen) == 1


async def test_a_provider_that_comes_home_takes_who_waits_nowhere_else(tmp_path: Path) -> None:
    """What waits for its address elsewhere is not sent there once everything has to stay."""
    gate = asyncio.Event()
    async with ScriptedUpstream(gated(gate)) as away, ScriptedUpstream() as here:
        there: dict[str, Any] = {
            "providers": {"fm": openai_provider(away.url, locality="remote")},
            "capabilities": {"text": ["fm/m"]},
            "lanes": {"fm": {"concurrency": 1, "reserve_high": 0}},
        }
        async with running_router(tmp_path, **there) as signalbox:
            first = asyncio.create_task(signalbox.chat(HELLO))
            await until(lambda: away.seen)
            waiting = asyncio.create_task(signalbox.chat(HELLO))
            await in_flight(signalbox, 2)
            there["providers"] = {"fm": openai_provider(here.url)}
            save(tmp_path, **there, local_only=True)
            await reload(signalbox)
            assert (await signalbox.chat(HELLO)).status_code == 200
            gate.set()
            assert (await first).status_code == 200
            refused = await waiting
            error = refused.json()["error"]
            assert (refused.status_code, error["code"]) == (503, "provider_unavailable")
            assert "Ask again" in error["message"]
            assert (len(away.seen), len(here.seen)) == (1, 1)


async def test_what_only_a_start_changes_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The answer, the log and the status name it, and it does not change by half."""
    async with running_router(tmp_path) as signalbox:
        save(tmp_path, server={"port": 1, "allowed_hosts": ["x.lan"]}, default_priority="high")
        told = await reload(signalbox)
        assert told["needs_restart"] == ["server.port", "server.allowed_hosts"]
        assert told["changed"] == ["default_priority"]
        assert "server.port" in caplog.text
        status = (await signalbox.client.get("/admin/status")).json()
        assert status["needs_restart"] == told["needs_restart"]
        refused = await signalbox.client.get("/v1/models", headers={"host": "x.lan"})
        assert refused.status_code == 403
        save(tmp_path)
        assert (await reload(signalbox))["needs_restart"] == []


async def test_numbers_count_for_the_next_request(tmp_path: Path) -> None:
    """Limits, deadlines, lanes and further attempts are those of the file of the moment."""
    gate = asyncio.Event()
    async with ScriptedUpstream(gated(gate)) as fm:
        there: dict[str, Any] = {
            "providers": {"fm": openai_provider(fm.url)},
            "capabilities": {"text": ["fm/m"]},
        }
        async with running_router(tmp_path, **there) as signalbox:
            save(
                tmp_path,
                **there,
                limits={"body_mb": 1, "buffered_mb": 2},
                timeouts={"first_byte_s": 0.05, "drain_s": 1.0, "header_s": 3.0},
                lanes={"default": {"concurrency": 1, "queue": 0, "reserve_high": 0}},
                retry={"attempts": 3},
            )
            await reload(signalbox)
            big = {**HELLO, "pad": "x" * 1_100_000}
            assert (await signalbox.chat(big)).json()["error"]["code"] == "body_too_large"
            assert (await signalbox.chat(HELLO)).json()["error"]["code"] == "upstream_timeout"
            router = signalbox.router
            assert (router.buffered.limit, router._proxy.limits.further_attempts) == (2_000_000, 3)
            assert signalbox.server._drain_s == 1.0
            assert signalbox.server._rules.header_s == 3.0
            first = asyncio.create_task(signalbox.chat(HELLO))
            await in_flight(signalbox, 1)
            assert (await signalbox.chat(HELLO)).json()["error"]["code"] == "queue_full"
            assert (await first).status_code == 504
            gate.set()


async def test_an_edited_provider_keeps_its_lane_where_its_address_stays(tmp_path: Path) -> None:
    """A server that takes one request at a time is not sent two because a header changed."""
    gate = asyncio.Event()
    async with ScriptedUpstream(gated(gate)) as fm:

        def sections(team: str, **more: Any) -> dict[str, Any]:
            return {
                "providers": {"fm": openai_provider(fm.url, headers={"X-Team": team}, **more)},
                "capabilities": {"text": ["fm/m"]},
                "lanes": {"fm": {"concurrency": 1, "queue": 0, "reserve_high": 0}},
            }

        async with running_router(tmp_path, **sections("a")) as signalbox:
            first = asyncio.create_task(signalbox.chat(HELLO))
            await until(lambda: fm.seen)
            save(tmp_path, **sections("b"))
            await reload(signalbox)
            assert (await signalbox.chat(HELLO)).json()["error"]["code"] == "queue_full"
            gate.set()
            assert (await first).status_code == 200
            assert (await signalbox.chat(HELLO)).status_code == 200
            assert [each.headers["x-team"] for each in fm.seen] == ["a", "b"]


async def test_a_further_attempt_goes_by_the_map_of_its_moment(tmp_path: Path) -> None:
    """A provider that was removed while the first one failed is not tried any more."""
    asked, gate = asyncio.Event(), asyncio.Event()

    async def fails(conversation: Conversation) -> None:
        asked.set()
        await gate.wait()
        await conversation.answer(b'{"error":{"message":"no","type":"t","code":"c"}}', 503)

    async with ScriptedUpstream(fails) as fm, ScriptedUpstream() as other:
        both: dict[str, Any] = {"fm": openai_provider(fm.url), "other": openai_provider(other.url)}
        text: dict[str, Any] = {"text": ["fm/m", "other/m"]}
        async with running_router(tmp_path, providers=both, capabilities=text) as signalbox:
            running = asyncio.create_task(signalbox.chat(HELLO))
            await asked.wait()
            save(tmp_path, providers={"fm": both["fm"]}, capabilities={"text": ["fm/m"]})
            await reload(signalbox)
            gate.set()
            assert (await running).status_code == 503
            assert other.connections == 0
            # An edited one is tried, as it is now.
            asked.clear()
            gate.clear()
            save(tmp_path, providers=both, capabilities=text)
            await reload(signalbox)
            running = asyncio.create_task(signalbox.chat(HELLO))
            await asked.wait()
            both["other"] = openai_provider(other.url, headers={"X-Team": "b"})
            save(tmp_path, providers=both, capabilities=text)
            await reload(signalbox)
            gate.set()
            assert (await running).status_code == 200
            assert other.seen[0].headers["x-team"] == "b"


async def test_a_stored_assignment_outlives_the_file_that_knew_its_models(tmp_path: Path) -> None:
    """It dangles while its provider is gone, and serves again when that is back."""
    async with ScriptedUpstream() as fm:
        there: dict[str, Any] = {"fm": openai_provider(fm.url)}
        async with running_router(tmp_path, providers=there) as signalbox:
            path = "/admin/capabilities/text"
            await signalbox.client.put(path, json={"models": ["fm/m"]})
            save(tmp_path)
            await reload(signalbox)
            row = (await signalbox.client.get(path)).json()
            assert (row["state"], row["models"]) == ("dangling", ["fm/m"])
            refused = await signalbox.chat(HELLO)
            assert refused.json()["error"]["code"] == "capability_not_assigned"
            save(tmp_path, providers=there, models={"fm/m": {"capabilities": {"text": False}}})
            await reload(signalbox)
            refused = await signalbox.chat(HELLO)
            assert refused.json()["error"]["code"] == "capability_mismatch"
            save(tmp_path, providers=there)
            await reload(signalbox)
            assert (await signalbox.chat(HELLO)).status_code == 200


async def test_a_key_that_goes_missing_disables_its_provider(tmp_path: Path) -> None:
    """Its file is read with the configuration's; what it says goes out, nowhere else."""
    key = tmp_path / "key"
    async with ScriptedUpstream() as fm:
        there: dict[str, Any] = {
            "providers": {"fm": openai_provider(fm.url, api_key={"file": str(key)})},
            "capabilities": {"text": ["fm/m"]},
        }
        async with running_router(tmp_path, **there) as signalbox:
            assert (await signalbox.chat(HELLO)).status_code == 404
            (row,) = (await signalbox.client.get("/admin/providers")).json()["data"]
            assert row["state"] == "disabled"
            assert "names a key that is not there" in row["message"]
            key.write_text("sk-1", encoding="ascii")
            key.chmod(0o600)
            assert (await reload(signalbox))["changed"] == []
            assert (await signalbox.chat(HELLO)).status_code == 200
            assert fm.seen[0].headers["authorization"] == "Bearer sk-1"
            assert "sk-1" not in (await signalbox.client.get("/admin/providers")).text


async def test_two_reloads_at_once_end_with_the_last_file(tmp_path: Path) -> None:
    """Changes are made one after the other."""
    async with running_router(tmp_path) as signalbox:
        await reload(signalbox)
        save(tmp_path, aliases={"a": "auto"})
        first = asyncio.create_task(reload(signalbox))
        second = asyncio.create_task(reload(signalbox))
        told = [await first, await second]
        assert [each["changed"] for each in told] == [["aliases.a"], []]
        assert signalbox.router.capability_map.catalog.aliases == {"a": Alias("auto")}
