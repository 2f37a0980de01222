"""The map through the admin API: assignments, what is stored, what is told."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.children import until
from tests.harness.raw_client import RawClient
from tests.harness.running_router import RunningRouter, openai_provider, running_router
from tests.harness.scripted_upstream import Conversation, ScriptedUpstream

HELLO = {"messages": [{"role": "user", "content": "hello"}]}


def _two(first: ScriptedUpstream, second: ScriptedUpstream) -> dict[str, Any]:
    return {
        "providers": {"a": openai_provider(first.url), "b": openai_provider(second.url)},
        "capabilities": {"text": ["a/m"]},
    }


async def _row(signalbox: RunningRouter, capability: str) -> Any:
    response = await signalbox.client.get(f"/admin/capabilities/{capability}")
    assert response.status_code == 200
    return response.json()


async def _assign(signalbox: RunningRouter, capability: str, *models: str) -> Any:
    return await signalbox.client.put(
        f"/admin/capabilities/{capability}", json={"models": list(models)}
    )


async def test_an_assignment_takes_effect_at_once_and_survives_a_restart(tmp_path: Path) -> None:
    """The next request goes where the map points, after a restart too, until it is reset."""
    async with ScriptedUpstream() as first, ScriptedUpstream() as second:
        settings = _two(first, second)
        async with running_router(tmp_path, **settings) as signalbox:
            assert (await _row(signalbox, "text"))["source"] == "file"
            response = await _assign(signalbox, "text", "b/m")
            assert response.status_code == 200
            assert response.json()["state"] == "external"
            assert (await signalbox.chat(HELLO)).headers["x-signalbox-provider"] == "b"
        async with running_router(tmp_path, **settings) as signalbox:
            assert (await signalbox.chat(HELLO)).headers["x-signalbox-provider"] == "b"
            row = await _row(signalbox, "text")
            assert (row["models"], row["source"]) == (["b/m"], "stored")
            assert row["file_says"] == ["a/m"]
            assert row["since"]
            response = await signalbox.client.delete("/admin/capabilities/text")
            assert response.json()["models"] == ["a/m"]
            assert (await signalbox.chat(HELLO)).headers["x-signalbox-provider"] == "a"
        async with running_router(tmp_path, **settings) as signalbox:
            assert (await _row(signalbox, "text"))["source"] == "file"


async def test_a_first_run_stores_nothing(tmp_path: Path) -> None:
    """Without an assignment there is no database, and reading the map makes none."""
    async with running_router(tmp_path) as signalbox:
        await _row(signalbox, "text")
    assert not list((tmp_path / "data").glob("*.db*"))


async def test_nobody_can_be_assigned_on_purpose(tmp_path: Path) -> None:
    """An empty list overrides the file: the capability has nobody."""
    async with ScriptedUpstream() as fm, running_router(tmp_path, **_two(fm, fm)) as signalbox:
        await _assign(signalbox, "text")
        response = await signalbox.chat(HELLO)
        assert (await _row(signalbox, "text"))["state"] == "unassigned"
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (404, "capability_not_assigned")
    assert "signalbox capabilities assign text" in error["message"]
    assert response.headers["x-signalbox-error"] == "1"


@pytest.mark.parametrize(
    ("capability", "body", "status", "code"),
    [
        ("text", {"models": ["nowhere/m"]}, 404, "model_not_found"),
        ("text", {"models": ["builtin/none"]}, 404, "model_not_found"),
        ("text", {"models": ["a/m\r\nset-cookie: x=1"]}, 404, "model_not_found"),
        ("text", {"models": ["a/m", "a/m"]}, 400, "invalid_request"),
        ("vision", {"models": ["a/blind"]}, 400, "capability_mismatch"),
        ("embeddings", {"models": ["builtin/smollm2-135m"]}, 400, "capability_mismatch"),
        ("sight", {"models": []}, 404, "not_found"),
        ("text", {"model": "a/m"}, 400, "invalid_request"),
        ("text", {"models": "a/m"}, 400, "invalid_request"),
        ("text?wait=later", {"models": []}, 400, "invalid_request"),
    ],
)
async def test_an_assignment_that_cannot_be_is_refused_and_changes_nothing(
    tmp_path: Path, capability: str, body: Any, status: int, code: str
) -> None:
    """Unknown models, facts that forbid it, and malformed bodies leave the map as it was."""
    async with ScriptedUpstream() as fm:
        settings = _two(fm, fm)
        settings["providers"]["builtin"] = {"kind": "builtin", "port": 0}
        settings["models"] = {"a/blind": {"capabilities": {"vision": False}}}
        async with running_router(tmp_path, **settings) as signalbox:
            response = await signalbox.client.put(f"/admin/capabilities/{capability}", json=body)
            assert (await _row(signalbox, "text"))["source"] == "file"
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


async def test_a_binding_whose_provider_is_gone_dangles_and_counts_as_unassigned(
    tmp_path: Path,
) -> None:
    """A stored assignment outlives its provider: it is kept, told, and serves nobody."""
    async with ScriptedUpstream() as fm:
        settings = _two(fm, fm)
        async with running_router(tmp_path, **settings) as signalbox:
            await _assign(signalbox, "text", "b/m")
        del settings["providers"]["b"]
        async with running_router(tmp_path, **settings) as signalbox:
            row = await _row(signalbox, "text")
            assert (row["state"], row["models"]) == ("dangling", ["b/m"])
            assert (await signalbox.chat(HELLO)).status_code == 404


async def test_a_model_that_is_not_on_disk_may_be_assigned_and_says_how_to_get_it(
    tmp_path: Path,
) -> None:
    """The map accepts it, no process starts, and requests name the command."""
    async with running_router(
        tmp_path, providers={"builtin": {"kind": "builtin", "port": 0}}
    ) as signalbox:
        response = await _assign(signalbox, "vision", "builtin/qwen3-vl-4b")
        assert response.json()["state"] == "needs_download"
        backend = (await signalbox.client.get("/admin/backends")).json()["data"][0]
        assert (backend["name"], backend["state"]) == ("builtin", "stopped")
        answer = await signalbox.chat({**HELLO, "model": "vision"})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (404, "model_not_downloaded")
    assert error["type"] == "model_not_found"
    assert "signalbox models pull qwen3-vl-4b" in error["message"]


async def test_fifty_assignments_at_once_end_in_one_of_them(tmp_path: Path) -> None:
    """Writes are one after the other; what is stored is what is in effect."""
    async with ScriptedUpstream() as fm, running_router(tmp_path, **_two(fm, fm)) as signalbox:
        answers = await asyncio.gather(
            *(_assign(signalbox, "text", f"a/m{number}") for number in range(50))
        )
        assert {answer.status_code for answer in answers} == {200}
        models = (await _row(signalbox, "text"))["models"]
    async with ScriptedUpstream() as fm, running_router(tmp_path, **_two(fm, fm)) as signalbox:
        assert (await _row(signalbox, "text"))["models"] == models


async def test_a_locked_database_refuses_the_change_and_requests_go_on(tmp_path: Path) -> None:
    """While somebody else holds the database, assigning is a 503 and proxying works."""
    async with ScriptedUpstream() as fm, running_router(tmp_path, **_two(fm, fm)) as signalbox:
        await _assign(signalbox, "text", "b/m")
        other = sqlite3.connect(tmp_path / "data" / "signalbox.db", isolation_level=None)
        try:
            other.execute("BEGIN EXCLUSIVE")
            pending = asyncio.create_task(_assign(signalbox, "text", "a/m"))
            assert (await signalbox.chat(HELLO)).headers["x-signalbox-provider"] == "b"
            refused = await pending
        finally:
            other.close()
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "store_unavailable")
        assert (await _row(signalbox, "text"))["models"] == ["b/m"]
        assert (await _assign(signalbox, "text", "a/m")).status_code == 200


async def test_explaining_is_resolving_without_a_call(tmp_path: Path) -> None:
    """The decision is shown with candidates and routes, and the provider hears nothing."""
    async with ScriptedUpstream() as fm, running_router(tmp_path, **_two(fm, fm)) as signalbox:
        good = await signalbox.client.post("/admin/explain", json={"body": HELLO})
        bad = await signalbox.client.post(
            "/admin/explain", json={"body": {**HELLO, "model": "vision"}}
        )
        odd = await signalbox.client.post("/admin/explain", json={"path": "/x", "body": {}})
    told = good.json()
    assert told["needs"] == ["text"]
    assert [(route["provider"], route["model"]) for route in told["routes"]] == [("a", "m")]
    assert told["candidates"][0]["facts"] == {"text": "true (assignment)"}
    assert told["error"] is None
    assert bad.json()["error"]["code"] == "capability_not_assigned"
    assert odd.status_code == 400
    assert fm.seen == []


async def test_requests_in_flight_are_listed_without_their_words(tmp_path: Path) -> None:
    """A request shows for whom it waits while it waits, and is gone with its answer."""
    arrived, go = asyncio.Event(), asyncio.Event()

    async def script(conversation: Conversation) -> None:
        arrived.set()
        await go.wait()
        await conversation.answer()

    async with (
        ScriptedUpstream(script) as fm,
        running_router(tmp_path, **_two(fm, fm)) as signalbox,
    ):
        assert (await signalbox.client.get("/admin/requests")).json() == {"data": []}
        asked = asyncio.create_task(signalbox.chat(HELLO, **{"x-request-id": "mine"}))
        await arrived.wait()
        listed = await signalbox.client.get("/admin/requests")
        go.set()
        assert (await asked).status_code == 200
        assert (await signalbox.client.get("/admin/requests")).json() == {"data": []}
    (row,) = listed.json()["data"]
    assert row.pop("age_s") >= 0
    assert row == {
        "id": 1,
        "request_id": "mine",
        "provider": "a",
        "model": "m",
        "needs": ["text"],
        "priority": 10,
        "state": "upstream",
        "attempts": 1,
    }
    assert "hello" not in listed.text


async def test_the_models_list_has_every_name_that_a_request_may_use(tmp_path: Path) -> None:
    """auto, bound capabilities, aliases and models, each retrievable by its id."""
    async with ScriptedUpstream() as fm:
        settings = {**_two(fm, fm), "aliases": {"gpt-4o": "auto", "claude-*": "text"}}
        async with running_router(tmp_path, **settings) as signalbox:
            listed = (await signalbox.client.get("/v1/models")).json()
            names = [row["id"] for row in listed["data"]]
            assert names == ["auto", "text", "gpt-4o", "a/m"]
            for name in names:
                one = await signalbox.client.get(f"/v1/models/{name}")
                assert one.json()["id"] == name
                assert (await signalbox.chat({**HELLO, "model": name})).status_code == 200


async def test_an_unknown_backend_is_named_as_such(tmp_path: Path) -> None:
    """Restarting or reading the log of a backend that is not there is a 404."""
    async with running_router(tmp_path) as signalbox:
        restart = await signalbox.client.post("/admin/backends/none/restart")
        logs = await signalbox.client.get("/admin/backends/none/logs")
    assert (restart.status_code, logs.status_code) == (404, 404)


@pytest.mark.parametrize("body", [b"\xff\xfe", b"[" * 5000, b"{", b'{"models":["\xff"]}'])
async def test_a_body_that_is_no_json_is_named_as_such(tmp_path: Path, body: bytes) -> None:
    """Whatever is wrong with it, the fault is the body's and not the address's."""
    async with running_router(tmp_path) as signalbox:
        response = await signalbox.client.put(
            "/admin/capabilities/text", content=body, headers={"content-type": "application/json"}
        )
    assert response.status_code == 400
    assert response.json()["error"]["code"] in {"invalid_json", "invalid_request"}


async def test_the_control_plane_takes_no_more_than_the_limit(tmp_path: Path) -> None:
    """A body of undeclared size is cut off at limits.body_mb here too."""

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b" " * 600_000

    async with running_router(tmp_path, limits={"body_mb": 1}) as signalbox:
        response = await signalbox.client.post(
            "/admin/explain", content=endless(), headers={"content-type": "application/json"}
        )
    assert (response.status_code, response.json()["error"]["code"]) == (413, "body_too_large")


async def test_a_defect_of_the_control_plane_is_told_in_the_envelope(tmp_path: Path) -> None:
    """What was not foreseen is an internal_error with the id that the log has, as everywhere."""
    async with running_router(tmp_path) as signalbox:
        models = tmp_path / "data" / "models"
        (models / "smollm2-135m").mkdir()
        (models / ".staging").write_text("in the way")
        response = await signalbox.client.delete("/admin/builtin/models/smollm2-135m")
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (500, "internal_error")
    assert response.headers["x-request-id"] in error["message"]


async def test_the_answer_about_a_download_tells_where_the_model_stands(tmp_path: Path) -> None:
    """A model that is there is neither downloading when asked for nor absent when cancelled."""
    async with running_router(tmp_path) as signalbox:
        folder = tmp_path / "data" / "models" / "smollm2-135m"
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"")
        path = "/admin/builtin/models/smollm2-135m/download"
        begun = await signalbox.client.post(path)
        cancelled = await signalbox.client.delete(path)
    assert (begun.json()["state"], cancelled.json()["state"]) == ("ready", "ready")


async def test_a_model_that_came_by_another_way_is_found_when_it_is_asked_for(
    tmp_path: Path,
) -> None:
    """Whoever is told to fetch a model that lies there already is not told so for ever."""
    builtin = {"builtin": {"kind": "builtin", "port": 0, "start": "on_demand"}}
    async with running_router(tmp_path, providers=builtin) as signalbox:
        await _assign(signalbox, "text", "builtin/smollm2-135m")
        assert (await _row(signalbox, "text"))["state"] == "needs_download"
        folder = tmp_path / "data" / "models" / "smollm2-135m"
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"")
        await signalbox.client.post("/admin/builtin/models/smollm2-135m/download")
        assert (await _row(signalbox, "text"))["state"] == "stopped"


async def test_a_request_that_waits_for_a_provider_can_be_cancelled(tmp_path: Path) -> None:
    """Its client hears 409 and not to try again; the provider is left; it is gone from the list."""
    left = asyncio.Event()

    async def silent(conversation: Conversation) -> None:
        await conversation.left()
        left.set()

    async with (
        ScriptedUpstream(silent) as fm,
        running_router(tmp_path, **_two(fm, fm)) as signalbox,
    ):
        asked = asyncio.create_task(signalbox.chat(HELLO))
        await until(lambda: len(fm.seen) == 1)
        row = (await signalbox.client.delete("/admin/requests/1")).json()
        assert (row["id"], row["state"], row["provider"]) == (1, "upstream", "a")
        answer = await asked
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "request_cancelled")
        assert answer.headers["x-should-retry"] == "false"
        await asyncio.wait_for(left.wait(), 1)
        # No other route was tried in its place.
        assert len(fm.seen) == 1
        missing = await signalbox.client.delete("/admin/requests/1")
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")


async def test_a_request_that_waits_for_its_turn_can_be_cancelled(tmp_path: Path) -> None:
    """It leaves the queue, and is never sent."""
    go = asyncio.Event()

    async def slow(conversation: Conversation) -> None:
        await go.wait()
        await conversation.answer()

    lanes = {"a": {"concurrency": 1, "queue": 5}}
    async with (
        ScriptedUpstream(slow) as fm,
        running_router(tmp_path, **_two(fm, fm), lanes=lanes) as signalbox,
    ):
        first = asyncio.create_task(signalbox.chat(HELLO))
        await until(lambda: len(fm.seen) == 1)
        second = asyncio.create_task(signalbox.chat(HELLO))
        await until(lambda: len(signalbox.router.in_flight) == 2)
        row = (await signalbox.client.delete("/admin/requests/2")).json()
        assert row["state"] == "queued"
        assert (await second).status_code == 409
        go.set()
        assert (await first).status_code == 200
        assert len(fm.seen) == 1


async def test_a_stream_that_is_cancelled_ends_in_an_error_frame(tmp_path: Path) -> None:
    """What was sent stays whole, the frame tells why, the framing ends, the provider is left."""
    left = asyncio.Event()

    async def endless(conversation: Conversation) -> None:
        await conversation.begin_stream()
        await conversation.event(b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n')
        await conversation.left()
        left.set()

    async with (
        ScriptedUpstream(endless) as fm,
        running_router(tmp_path, **_two(fm, fm)) as signalbox,
        RawClient(signalbox.port) as client,
    ):
        await client.post("/v1/chat/completions", {**HELLO, "stream": True})
        status, headers = await client.head()
        await until(lambda: next(iter(signalbox.router.in_flight)).state == "streaming")
        await signalbox.client.delete("/admin/requests/1")
        body = await client.body(headers)
        await asyncio.wait_for(left.wait(), 1)
    assert status == 200
    assert body.startswith(b'data: {"choices"')
    assert json.loads(body[body.rindex(b"data: ") + 6 :])["error"]["code"] == "request_cancelled"
    assert b"[DONE]" not in body
