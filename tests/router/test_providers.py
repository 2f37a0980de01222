"""Providers added, edited, removed and tested through the admin API."""

import asyncio
import gc
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.harness import keyrings
from tests.harness.edited import gated, in_flight
from tests.harness.one_provider import HELLO
from tests.harness.running_router import RunningRouter, openai_provider, running_router, save
from tests.harness.scripted_upstream import Conversation, ScriptedUpstream, hello
from tests.harness.served import Served, served

PATH = "/admin/providers"
KEY = "sk-CANARY-1"


@pytest.fixture(autouse=True)
def no_keyring() -> Iterator[None]:
    """Nothing of a test ends in the keyring of the person who runs it."""
    with keyrings.using(keyrings.absent()):
        yield


async def add(signalbox: RunningRouter, name: str, url: str, **more: Any) -> Any:
    """Add a provider of OpenAI's dialect; return its row."""
    told = {"name": name, "kind": "openai", "base_url": url, **more}
    response = await signalbox.client.post(PATH, json=told)
    assert response.status_code == 201, response.text
    return response.json()


async def row(signalbox: RunningRouter, name: str) -> Any:
    """Return one provider."""
    response = await signalbox.client.get(f"{PATH}/{name}")
    assert response.status_code == 200
    return response.json()


async def bind(signalbox: RunningRouter, *models: str) -> None:
    """Assign models to text."""
    response = await signalbox.client.put("/admin/capabilities/text", json={"models": models})
    assert response.status_code == 200


async def test_a_provider_serves_from_its_acknowledgement_on_and_after_a_restart(
    tmp_path: Path,
) -> None:
    """Added, bound, asked; edited; removed: the binding is kept, and dangles."""
    async with ScriptedUpstream() as fm:
        async with running_router(tmp_path) as signalbox:
            told = await add(signalbox, "fm", fm.url, headers={"X-Team": "secret-team"})
            since = told.pop("since")
            assert told == {
                "name": "fm", "kind": "openai", "base_url": fm.url, "locality": "local",
                "source": "stored", "state": "ok", "message": None, "proxy": None, "ca_file": None,
                "headers": ["X-Team"], "timeouts": {}, "has_key": False,
            }  # fmt: skip
            await bind(signalbox, "fm/m")
            assert (await signalbox.chat(HELLO)).status_code == 200
            assert fm.seen[0].headers["x-team"] == "secret-team"
        async with running_router(tmp_path) as signalbox:
            assert (await row(signalbox, "fm"))["since"] == since
            assert (await signalbox.chat(HELLO)).status_code == 200
            changes = {"headers": {"X-Team": "b"}, "timeouts": {"idle_s": 3.5}}
            response = await signalbox.client.patch(f"{PATH}/fm", json=changes)
            assert response.json()["timeouts"] == {"idle_s": 3.5}
            assert (await signalbox.chat(HELLO)).status_code == 200
            assert fm.seen[2].headers["x-team"] == "b"
            response = await signalbox.client.patch(f"{PATH}/fm", json={"headers": None})
            assert response.json()["headers"] == []
            response = await signalbox.client.delete(f"{PATH}/fm")
            assert response.json() == {"name": "fm", "removed": True, "still_named_by": ["text"]}
            assert (await signalbox.client.get(f"{PATH}/fm")).status_code == 404
            bound = (await signalbox.client.get("/admin/capabilities/text")).json()
            assert (bound["state"], bound["models"]) == ("dangling", ["fm/m"])
            refused = await signalbox.chat(HELLO)
            assert refused.json()["error"]["code"] == "capability_not_assigned"
        async with running_router(tmp_path) as signalbox:
            assert (await signalbox.client.get(PATH)).json() == {"data": []}


@pytest.mark.parametrize(
    ("told", "status", "code", "param"),
    [
        ({"kind": "openai", "base_url": "http://x/v1"}, 400, "invalid_request", "name"),
        ({"name": "../x", "kind": "openai"}, 400, "invalid_request", "name"),
        ({"name": "text", "base_url": "http://x"}, 400, "invalid_request", "name"),
        ({"name": "n"}, 400, "invalid_request", "base_url"),
        ({"name": "n", "base_url": "ftp://x"}, 400, "invalid_request", "base_url"),
        ({"name": "n", "base_url": "http://a:b@x"}, 400, "invalid_request", "base_url"),
        ({"name": "n", "base_url": "http://x", "bse": 1}, 400, "invalid_request", "bse"),
        ({"name": "n", "kind": "cloud"}, 400, "invalid_request", "kind"),
        ({"name": "n", "kind": "builtin"}, 400, "invalid_request", "kind"),
        ({"name": "n", "kind": "litellm"}, 400, "invalid_request", "litellm_provider"),
        (
            {"name": "n", "kind": "litellm", "litellm_provider": "A/b"},
            400, "invalid_request", "litellm_provider",
        ),
        (
            {"name": "n", "kind": "litellm", "litellm_provider": "a", "options": {"client": "x"}},
            400, "invalid_request", "options.client",
        ),
        ({"name": "n", "kind": "process", "command": ["a"]}, 400, "invalid_request", "kind"),
        (
            {"name": "n", "base_url": "http://x", "ca_file": "/a.pem"},
            400, "invalid_request", "ca_file",
        ),
        (
            {"name": "n", "base_url": "https://x", "ca_file": "/none.pem"},
            400, "invalid_request", "ca_file",
        ),
        (
            {"name": "n", "base_url": "http://x", "timeouts": {"idle_s": -1}},
            400, "invalid_request", "timeouts.idle_s",
        ),
        (
            {"name": "n", "base_url": "http://x", "headers": {"Host": "a"}},
            400, "invalid_request", "headers.Host",
        ),
        ({"name": "n", "base_url": "http://x", "api_key": ""}, 400, "invalid_request", "api_key"),
        (
            {"name": "n", "base_url": "http://x", "api_key": "a\nb"},
            400, "invalid_request", "api_key",
        ),
        (
            {"name": "n", "base_url": "http://x", "api_key": {"env": "HOME"}},
            400, "invalid_request", "api_key",
        ),
        (
            {"name": "n", "base_url": "http://x", "api_key": {"file": "/etc/passwd"}},
            400, "invalid_request", "api_key",
        ),
        ({"name": "in_file", "base_url": "http://x"}, 409, "conflict", None),
        ({"name": "there", "base_url": "http://x"}, 409, "conflict", None),
    ],
)  # fmt: skip
async def test_what_cannot_be_a_provider_is_refused_and_nothing_is_kept(
    tmp_path: Path, told: dict[str, Any], status: int, code: str, param: str | None
) -> None:
    """The same rules as in the file, each with the key at fault."""
    in_file = {"in_file": openai_provider("http://127.0.0.1:9/v1")}
    async with running_router(tmp_path, providers=in_file) as signalbox:
        await add(signalbox, "there", "http://127.0.0.1:9/v1")
        before = (await signalbox.client.get(PATH)).json()
        response = await signalbox.client.post(PATH, json={"kind": "openai", **told})
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["param"]) == (status, code, param), error
        assert (await signalbox.client.get(PATH)).json() == before
        assert not list((tmp_path / "data" / "keys").glob("*"))


async def test_what_stands_in_the_file_is_read_only(tmp_path: Path) -> None:
    """The refusal names the file."""
    in_file = {"fm": openai_provider("http://127.0.0.1:9/v1")}
    async with running_router(tmp_path, providers=in_file) as signalbox:
        assert (await row(signalbox, "fm"))["source"] == "file"
        for response in (
            await signalbox.client.patch(f"{PATH}/fm", json={"kind": "ollama"}),
            await signalbox.client.delete(f"{PATH}/fm"),
        ):
            error = response.json()["error"]
            assert (response.status_code, error["code"]) == (409, "conflict")
            assert str(tmp_path / "router.yaml") in error["message"]
        for response in (
            await signalbox.client.patch(f"{PATH}/none", json={"kind": "ollama"}),
            await signalbox.client.delete(f"{PATH}/none"),
            await signalbox.client.post(f"{PATH}/none/test"),
        ):
            assert response.json()["error"]["code"] == "not_found"


async def test_a_stored_one_gives_way_to_the_files_of_the_same_name(tmp_path: Path) -> None:
    """It is told, it can still be removed, and it serves again when the file lets go."""
    async with ScriptedUpstream() as fm, ScriptedUpstream() as other:
        in_file = {"fm": openai_provider(other.url)}
        async with running_router(tmp_path) as signalbox:
            await add(signalbox, "fm", fm.url)
            await bind(signalbox, "fm/m")
            save(tmp_path, providers=in_file)
            await signalbox.client.post("/admin/reload")
            assert (await signalbox.chat(HELLO)).status_code == 200
            assert (len(fm.seen), len(other.seen)) == (0, 1)
            told = await row(signalbox, "fm")
            assert (told["source"], told["base_url"]) == ("file", other.url)
            assert "signalbox providers rm fm" in told["message"]
            save(tmp_path)
            await signalbox.client.post("/admin/reload")
            assert (await signalbox.chat(HELLO)).status_code == 200
            assert len(fm.seen) == 1
            save(tmp_path, providers=in_file)
            await signalbox.client.post("/admin/reload")
            assert (await signalbox.client.delete(f"{PATH}/fm")).status_code == 200
            assert (await row(signalbox, "fm"))["message"] is None


async def test_a_key_is_kept_in_a_file_of_its_own_and_shown_nowhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It goes to its provider and to nobody else; what is replaced or removed is deleted."""
    caplog.set_level("DEBUG")
    keys, answers = tmp_path / "data" / "keys", []
    async with ScriptedUpstream() as fm, running_router(tmp_path) as signalbox:
        answers.append(await add(signalbox, "fm", fm.url, api_key=KEY))
        (first,) = keys.iterdir()
        assert stat.S_IMODE(first.stat().st_mode) == 0o600
        assert stat.S_IMODE(keys.stat().st_mode) == 0o700
        (keys / "left-00000000.key").write_text("by a router that was killed", encoding="utf-8")
        await bind(signalbox, "fm/m")
        await signalbox.chat(HELLO)
        assert fm.seen[0].headers["authorization"] == f"Bearer {KEY}"
        changes = {"api_key": KEY + "2"}
        answers.append((await signalbox.client.patch(f"{PATH}/fm", json=changes)).json())
        (second,) = keys.iterdir()
        assert second != first
        await signalbox.chat(HELLO)
        assert fm.seen[1].headers["authorization"] == f"Bearer {KEY}2"
        answers += [(await signalbox.client.get(PATH)).text, repr(signalbox.router.configuration)]
        assert answers[0]["has_key"]
        await signalbox.client.delete(f"{PATH}/fm")
        assert list(keys.iterdir()) == []
    assert KEY not in f"{answers}{caplog.text}"
    database = tmp_path / "data" / "signalbox.db"
    assert KEY.encode() not in database.read_bytes()


async def test_a_key_that_cannot_be_kept_is_told(tmp_path: Path) -> None:
    """503, and nothing is changed."""
    async with running_router(tmp_path) as signalbox:
        (tmp_path / "data" / "keys").write_text("not a folder", encoding="utf-8")
        told = {"name": "a", **openai_provider("http://127.0.0.1:9/v1"), "api_key": KEY}
        response = await signalbox.client.post(PATH, json=told)
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (503, "store_unavailable")
        assert "takes no key" in error["message"]
        assert (await signalbox.client.get(PATH)).json() == {"data": []}


async def test_a_key_that_cannot_be_deleted_is_in_nobodys_way(tmp_path: Path) -> None:
    """The change that it was left by is made all the same."""
    (tmp_path / "data" / "keys" / "left-00000000.key").mkdir(parents=True)
    async with running_router(tmp_path) as signalbox:
        await add(signalbox, "a", "http://127.0.0.1:9/v1", api_key=KEY)
        assert (await row(signalbox, "a"))["has_key"]


async def test_an_edit_of_something_else_keeps_the_key(tmp_path: Path) -> None:
    """The reference that is stored is ours, and no variable or file that somebody names to us."""
    async with ScriptedUpstream() as fm, running_router(tmp_path) as signalbox:
        await add(signalbox, "fm", fm.url, api_key=KEY)
        (kept,) = (tmp_path / "data" / "keys").iterdir()
        changes = {"timeouts": {"idle_s": 3.5}}
        response = await signalbox.client.patch(f"{PATH}/fm", json=changes)
        assert response.status_code == 200, response.text
        assert list(kept.parent.iterdir()) == [kept]
        await bind(signalbox, "fm/m")
        await signalbox.chat(HELLO)
        assert fm.seen[0].headers["authorization"] == f"Bearer {KEY}"
        named = {"api_key": {"file": str(kept)}}
        response = await signalbox.client.patch(f"{PATH}/fm", json=named)
        assert response.json()["error"]["param"] == "api_key"


async def test_a_key_goes_to_the_keyring_where_there_is_one(tmp_path: Path) -> None:
    """No file is made; the entry goes with its provider, one that somebody else made stays."""
    keyring = keyrings.OpenKeyring()
    keyring.set_password("signalbox", "mine", "sk-mine")
    with keyrings.using(keyring):
        async with ScriptedUpstream() as fm, running_router(tmp_path) as signalbox:
            await add(signalbox, "fm", fm.url, api_key=KEY)
            await add(signalbox, "own", fm.url, api_key={"keyring": "mine"})
            assert sorted(keyring._kept.values()) == [KEY, "sk-mine"]
            assert not (tmp_path / "data" / "keys").exists()
            await bind(signalbox, "fm/m", "own/m")
            await signalbox.chat(HELLO)
            await signalbox.chat({**HELLO, "model": "own/m"})
            told = [each.headers["authorization"] for each in fm.seen]
            assert told == [f"Bearer {KEY}", "Bearer sk-mine"]
            await signalbox.client.delete(f"{PATH}/fm")
            await signalbox.client.delete(f"{PATH}/own")
            assert list(keyring._kept.values()) == ["sk-mine"]


@pytest.mark.parametrize("secret", ["api_key", "headers"])
async def test_a_secret_does_not_follow_its_provider_to_another_address(
    tmp_path: Path, secret: str
) -> None:
    """Whoever changes where requests go has to know the secrets that go with them."""
    value = {"api_key": KEY, "headers": {"X-Key": "s"}}[secret]
    async with ScriptedUpstream() as fm, running_router(tmp_path) as signalbox:
        await add(signalbox, "fm", fm.url, **{secret: value})
        for way in ({"base_url": "http://127.0.0.1:9/v1"}, {"proxy": "http://127.0.0.1:9"}):
            response = await signalbox.client.patch(f"{PATH}/fm", json=way)
            assert (response.status_code, response.json()["error"]["param"]) == (400, secret)
        response = await signalbox.client.patch(
            f"{PATH}/fm", json={"base_url": fm.url + "/x", secret: None}
        )
        assert response.json()["base_url"] == fm.url + "/x"
        assert (response.json()["has_key"], response.json()["headers"]) == (False, [])


async def _refuses(conversation: Conversation) -> None:
    await conversation.answer(b'{"error":{"message":"no"}}', 401)


async def _nothing(conversation: Conversation) -> None:
    await conversation.answer(b"<html>", 404, "text/html")


async def _lists(conversation: Conversation) -> None:
    assert conversation.target == "/v1/models"
    await conversation.answer(b'{"object":"list","data":[{"id":"a"},{"id":"b"}]}')


async def _bare(conversation: Conversation) -> None:
    await conversation.answer(b'[{"id":"a"}]')


async def _endless(conversation: Conversation) -> None:
    await conversation.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n")
    while True:
        await conversation.send(b"x" * 1_000_000)


async def _ill(conversation: Conversation) -> None:
    await conversation.answer(b"", 500)


@pytest.mark.parametrize(
    ("script", "key", "ok", "words"),
    [
        (_lists, KEY, True, "lists 2 models"),
        (_bare, None, True, "lists 1 model."),
        (_endless, None, False, "more than 32000000 bytes"),
        (_refuses, KEY, False, "refuses the key"),
        (_refuses, None, False, "wants a key"),
        (_nothing, None, False, "is the path of base_url right?"),
        (_ill, None, False, "status 500"),
        (hello, None, False, "not with a list of models"),
        (None, None, False, "Is it running?"),
    ],
)
async def test_a_test_says_what_came_of_it(
    tmp_path: Path, script: Any, key: str | None, ok: bool, words: str
) -> None:
    """One question, no prompt, and words that say what to do."""
    async with ScriptedUpstream(script or hello) as fm, running_router(tmp_path) as signalbox:
        url = fm.url if script else "http://127.0.0.1:9/v1"
        await add(signalbox, "fm", url, **({"api_key": key} if key else {}))
        response = await signalbox.client.post(f"{PATH}/fm/test")
        told = response.json()
        assert (response.status_code, told["ok"]) == (200, ok)
        assert words in told["message"]
        assert KEY not in response.text
        assert len(fm.seen) == (1 if script else 0)
        if key:
            assert fm.seen[0].headers["authorization"] == f"Bearer {KEY}"


async def test_a_test_shows_the_key_where_the_provider_looks_for_it(tmp_path: Path) -> None:
    """As requests do."""
    async with ScriptedUpstream(hello) as fm, running_router(tmp_path) as signalbox:
        await add(signalbox, "fm", fm.url, api_key=KEY, key_header="x-api-key")
        await signalbox.client.post(f"{PATH}/fm/test")
    assert fm.seen[0].headers["x-api-key"] == KEY
    assert "authorization" not in fm.seen[0].headers


async def test_a_remote_provider_is_not_even_tested_where_nothing_may_leave(tmp_path: Path) -> None:
    """Its key would leave the machine."""
    async with ScriptedUpstream() as fm, running_router(tmp_path, local_only=True) as signalbox:
        await add(signalbox, "fm", fm.url, locality="remote")
        response = await signalbox.client.post(f"{PATH}/fm/test")
        assert response.json()["error"]["code"] == "remote_not_allowed"
        assert fm.connections == 0


async def test_a_change_that_cannot_be_stored_does_not_take_effect(tmp_path: Path) -> None:
    """503, nothing is changed, and no key is left."""
    async with running_router(tmp_path) as signalbox:
        await add(signalbox, "a", "http://127.0.0.1:9/v1")
        with closing(sqlite3.connect(tmp_path / "data" / "signalbox.db")) as other:
            other.execute("BEGIN IMMEDIATE")
            # Over TLS, where a way that was made in vain and not closed is complained about.
            told = {"name": "b", "kind": "openai", "base_url": "https://x/v1", "api_key": KEY}
            response = await signalbox.client.post(PATH, json=told)
            assert response.json()["error"]["code"] == "store_unavailable"
            assert [each["name"] for each in (await signalbox.client.get(PATH)).json()["data"]] == [
                "a"
            ]
            assert set(signalbox.router.reaches) == {"a"}
            assert not list((tmp_path / "data" / "keys").iterdir())
        await asyncio.sleep(0)
        assert signalbox.router.configuration._reaches.retired == 0
        gc.collect()


async def test_what_another_version_stored_is_left_out_and_said(tmp_path: Path) -> None:
    """A row that is no provider here stops neither the start nor its own removal."""
    async with running_router(tmp_path) as signalbox:
        await add(signalbox, "a", "http://127.0.0.1:9/v1")
        await add(signalbox, "b", "http://127.0.0.1:9/v1")
    with closing(sqlite3.connect(tmp_path / "data" / "signalbox.db")) as database:
        database.execute("UPDATE provider SET settings = '{\"kind\":\"later\"}' WHERE name = 'a'")
        database.commit()
    async with running_router(tmp_path) as signalbox:
        told = await row(signalbox, "a")
        assert (told["state"], told["message"]) == (
            "disabled",
            "kind: ollama, openai or litellm is due here",
        )
        assert set(signalbox.router.reaches) == {"b"}
        assert (await signalbox.client.delete(f"{PATH}/a")).status_code == 200


async def test_a_kill_right_after_the_acknowledgement_loses_nothing(tmp_path: Path) -> None:
    """What was acknowledged is stored: the provider and its key are there at the next start."""
    async with ScriptedUpstream() as fm:
        router = await Served.start(tmp_path)
        told = {"name": "fm", "kind": "openai", "base_url": fm.url, "api_key": KEY}
        response = await router.client.post(PATH, json=told)
        router.process.kill()
        assert response.status_code == 201
        await router.stop()
        async with served(tmp_path) as router:
            body = {**HELLO, "model": "fm/m"}
            answer = await router.client.post("/v1/chat/completions", json=body)
            assert answer.status_code == 200
            assert fm.seen[0].headers["authorization"] == f"Bearer {KEY}"
            assert KEY not in router.log()


async def test_the_file_may_tell_of_what_is_added(tmp_path: Path) -> None:
    """A lane, and facts of models: there is no other place for them."""
    sees, gate = [{"type": "image_url", "image_url": {"url": "data:"}}], asyncio.Event()
    async with (
        ScriptedUpstream(gated(gate)) as fm,
        running_router(
            tmp_path,
            models={"fm/m": {"capabilities": {"vision": False}}},
            lanes={"fm": {"concurrency": 1, "queue": 0, "reserve_high": 0}},
        ) as signalbox,
    ):
        await add(signalbox, "fm", fm.url)
        first = asyncio.create_task(signalbox.chat({**HELLO, "model": "fm/m"}))
        await in_flight(signalbox, 1)
        refused = await signalbox.chat({**HELLO, "model": "fm/m"})
        assert refused.json()["error"]["code"] == "queue_full"
        gate.set()
        assert (await first).status_code == 200
        asked = {"model": "fm/m", "messages": [{"role": "user", "content": sees}]}
        refused = await signalbox.chat(asked)
        assert refused.json()["error"]["code"] == "capability_mismatch"


async def test_changes_at_once_are_made_one_after_the_other(tmp_path: Path) -> None:
    """None is lost, and each name is given once."""
    async with running_router(tmp_path) as signalbox:
        async with asyncio.TaskGroup() as tasks:
            for number in range(8):
                tasks.create_task(add(signalbox, f"p{number}", "http://127.0.0.1:9/v1"))
                tasks.create_task(signalbox.client.post("/admin/reload"))
        names = {each["name"] for each in (await signalbox.client.get(PATH)).json()["data"]}
        assert names == {f"p{number}" for number in range(8)} == set(signalbox.router.reaches)


async def test_where_litellm_lacks_its_provider_says_what_to_install(tmp_path: Path) -> None:
    """It can be added, is disabled, and its key does not follow it to another cloud."""
    async with running_router(tmp_path) as signalbox:
        told = {"name": "c", "kind": "litellm", "litellm_provider": "anthropic", "api_key": "sk-1"}
        added = await signalbox.client.post("/admin/providers", json=told)
        assert (added.status_code, added.json()["state"]) == (201, "disabled")
        assert "scripts/setup cloud" in added.json()["message"]
        for change in ({"litellm_provider": "gemini"}, {"options": {"api_version": "1"}}):
            answer = await signalbox.client.patch("/admin/providers/c", json=change)
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "api_key")
