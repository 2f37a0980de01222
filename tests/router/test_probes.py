"""Trying models out, through the router's own path of requests, on real sockets."""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from router import probes
from router.trial import COLOURS, png
from tests.harness.pictures import picture, shows, uri_of
from tests.harness.running_router import RunningRouter, openai_provider, running_router, save
from tests.harness.scripted_upstream import Conversation, ScriptedUpstream
from tests.harness.served import served, tiny

Script = Callable[[Conversation], Awaitable[None]]


def _answer(content: object, **more: Any) -> bytes:
    message = {"role": "assistant", "content": content, **more}
    return json.dumps(
        {"choices": [{"index": 0, "finish_reason": "stop", "message": message}]}
    ).encode()


def _capable(body: dict[str, Any]) -> bytes:
    """Answer as a model that can do all that it is asked for."""
    content = body["messages"][0]["content"]
    if isinstance(content, list):
        url = content[1]["image_url"]["url"]
        shown = base64.b64decode(url.partition(",")[2])
        return _answer(next(name for name, colour in COLOURS.items() if png(colour) == shown))
    if "tools" in body:
        number = int("".join(each for each in content if each.isdigit()))
        function = {"name": "report_number", "arguments": json.dumps({"number": number})}
        return _answer(None, tool_calls=[{"id": "c", "type": "function", "function": function}])
    if "response_format" in body:
        (key,) = body["response_format"]["json_schema"]["schema"]["properties"]
        return _answer(json.dumps({key: True}))
    return _answer("Hello")


async def capable(conversation: Conversation) -> None:
    await conversation.answer(_capable(conversation.json))


async def plain(conversation: Conversation) -> None:
    """Answer as a model that refuses pictures and takes no notice of tools and schemas."""
    if isinstance(conversation.json["messages"][0]["content"], list):
        error = {"error": {"message": "image input is not supported by this model"}}
        await conversation.answer(json.dumps(error).encode(), status=400)
    else:
        await conversation.answer(_answer("Hello"))


async def probe(signalbox: RunningRouter, **wanted: Any) -> Any:
    wanted.setdefault("model", "p/m")
    return await signalbox.client.post("/admin/models/probe", json=wanted)


def values(response: Any) -> dict[str, bool | None]:
    assert response.status_code == 200, response.text
    return {need: told["value"] for need, told in response.json()["verdicts"].items()}


async def facts(signalbox: RunningRouter) -> dict[str, Any]:
    rows = (await signalbox.client.get("/admin/models")).json()["data"]
    told: dict[str, Any] = next((row["facts"] for row in rows if row["model"] == "p/m"), {})
    return told


@pytest.mark.parametrize(
    ("script", "expected", "requests"),
    [
        (
            capable,
            {"text": True, "vision": True, "tool_use": True, "structured_output": True},
            5,
        ),
        (
            plain,
            {"text": True, "vision": False, "tool_use": False, "structured_output": False},
            6,
        ),
    ],
)
async def test_a_probe_asks_for_real_and_its_verdicts_count(
    tmp_path: Path, script: Script, expected: dict[str, bool], requests: int
) -> None:
    """They are stored with date and reason, routed by, and survive a restart until forgotten."""
    sees = {"model": "p/m", "messages": shows(uri_of(picture()))["messages"]}
    async with ScriptedUpstream(script) as fm:
        settings = {"p": openai_provider(fm.url)}
        sections: dict[str, Any] = {"providers": settings}
        async with running_router(tmp_path, **sections) as signalbox:
            assert values(await probe(signalbox)) == expected
            assert len(fm.seen) == requests
            assert {each.json["model"] for each in fm.seen} == {"m"}
        async with running_router(tmp_path, **sections) as signalbox:
            known = await facts(signalbox)
            assert {need: fact["value"] for need, fact in known.items()} == expected
            assert all(fact["source"] == "probe" and fact["date"] for fact in known.values())
            assert known["text"]["why"] == "it said 'Hello'"
            told = await signalbox.client.post("/admin/explain", json={"body": sees})
            assert bool(told.json()["routes"]) is expected["vision"]
            forgotten = await signalbox.client.delete("/admin/models/facts?model=p/m")
            assert set(forgotten.json()["forgotten"]) == set(expected)
            assert await facts(signalbox) == {}
            told = await signalbox.client.post("/admin/explain", json={"body": sees})
            assert told.json()["routes"]


async def test_what_was_tried_out_by_a_short_name_is_forgotten_by_it(tmp_path: Path) -> None:
    """And by its whole name where its provider has gone meanwhile."""
    async with ScriptedUpstream(capable) as fm:
        there: dict[str, Any] = {"providers": {"p": openai_provider(fm.url)}, "models": {"p/m": {}}}
        async with running_router(tmp_path, **there) as signalbox:
            path, wanted = "/admin/models/facts?model=", {"model": "m", "capabilities": ["text"]}
            assert values(await probe(signalbox, **wanted)) == {"text": True}
            forgotten = (await signalbox.client.delete(f"{path}m")).json()
            assert forgotten == {"model": "p/m", "forgotten": ["text"]}
            await probe(signalbox, **wanted)
            save(tmp_path)
            await signalbox.client.post("/admin/reload")
            assert (await signalbox.client.delete(f"{path}m")).json()["forgotten"] == []
            assert (await signalbox.client.delete(f"{path}p/m")).json()["forgotten"] == ["text"]


async def test_a_probe_overrules_what_was_believed_and_not_the_user(tmp_path: Path) -> None:
    """A model is asked although it is said to be blind; the user's word counts all the same."""
    async with (
        ScriptedUpstream(capable) as fm,
        running_router(
            tmp_path,
            providers={"p": openai_provider(fm.url)},
            models={"p/m": {"capabilities": {"vision": False}}},
        ) as signalbox,
    ):
        assert values(await probe(signalbox, capabilities=["vision"])) == {"vision": True}
        assert (await facts(signalbox))["vision"] == {
            "value": False,
            "source": "user",
            "date": None,
            "why": None,
        }


async def test_a_remote_model_is_asked_only_where_that_is_allowed(tmp_path: Path) -> None:
    """Nothing is sent before; and local_only stands above a person's yes."""
    async with ScriptedUpstream(capable) as fm:
        settings = {"p": openai_provider(fm.url, locality="remote")}
        async with running_router(tmp_path, providers=settings) as signalbox:
            refused = await probe(signalbox)
            assert refused.status_code == 403
            assert refused.json()["error"]["code"] == "remote_not_allowed"
            assert "--yes" in refused.json()["error"]["message"]
            assert fm.seen == []
            allowed = await probe(signalbox, allow_remote=True, capabilities=["text"])
            assert values(allowed) == {"text": True}
        async with running_router(tmp_path, providers=settings, local_only=True) as signalbox:
            refused = await probe(signalbox, allow_remote=True)
            assert refused.json()["error"]["code"] == "remote_not_allowed"
        assert len(fm.seen) == 1


async def test_an_ollama_is_asked_where_its_model_runs_before_the_trial(tmp_path: Path) -> None:
    """A model that its list calls local is tried without further leave, a cloud's is not."""
    far = {"remote_host": "https://ollama.example"}
    tags = {"models": [{"model": "m"}, {"model": "far", **far}]}

    async def script(conversation: Conversation) -> None:
        if conversation.target == "/api/tags":
            await conversation.answer(json.dumps(tags).encode())
        else:
            await capable(conversation)

    async with ScriptedUpstream(script) as fm:
        provider = {"kind": "ollama", "base_url": fm.url.removesuffix("/v1")}
        async with running_router(tmp_path, providers={"p": provider}) as signalbox:
            assert values(await probe(signalbox, capabilities=["text"])) == {"text": True}
            assert (await probe(signalbox, model="p/far")).status_code == 403


async def test_a_model_that_turns_out_remote_in_between_is_asked_no_further(
    tmp_path: Path,
) -> None:
    """Leave to ask is for what was local; each request of a trial is routed by its own moment."""
    tags: dict[str, Any] = {"models": [{"model": "m"}]}
    running: list[RunningRouter] = []
    chats = 0

    async def script(conversation: Conversation) -> None:
        nonlocal chats
        if conversation.target == "/api/tags":
            await conversation.answer(json.dumps(tags).encode())
            return
        chats += 1
        tags["models"] = [{"model": "m", "remote_host": "https://ollama.example"}]
        await running[0].router.discovery.discover("p")
        await capable(conversation)

    async with ScriptedUpstream(script) as fm:
        provider = {"kind": "ollama", "base_url": fm.url.removesuffix("/v1")}
        async with running_router(tmp_path, providers={"p": provider}) as signalbox:
            running.append(signalbox)
            refused = await probe(signalbox, capabilities=["text", "vision"])
            assert refused.json()["error"]["code"] == "remote_not_allowed"
    assert chats == 1


@pytest.mark.parametrize(
    ("wanted", "status", "code"),
    [
        ({"model": "nobody"}, 404, "model_not_found"),
        ({"model": "p/\n"}, 404, "model_not_found"),
        ({"model": "builtin/smollm2-135m"}, 409, "backend_not_assigned"),
        ({"capabilities": ["rerank"]}, 400, "invalid_request"),
        ({"capabilities": ["flying"]}, 400, "invalid_request"),
        ({}, 502, "upstream_unreachable"),
    ],
)
async def test_what_cannot_be_asked_is_told_and_nothing_is_stored(
    tmp_path: Path, wanted: dict[str, Any], status: int, code: str
) -> None:
    """An older verdict must not give way to a provider that is down."""
    async with ScriptedUpstream() as gone:
        pass
    providers = {"p": openai_provider(gone.url), "builtin": {"kind": "builtin", "port": 1}}
    async with running_router(tmp_path, providers=providers) as signalbox:
        response = await probe(signalbox, **wanted)
        assert (response.status_code, response.json()["error"]["code"]) == (status, code)
        assert signalbox.router.capability_map.learned.verdicts == {}


async def test_a_cloud_that_knows_max_tokens_by_its_newer_name_is_asked_again(
    tmp_path: Path,
) -> None:
    """A refusal of a parameter is not taken for one of the capability."""

    async def script(conversation: Conversation) -> None:
        if "max_tokens" in conversation.json:
            told = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
            await conversation.answer(json.dumps({"error": {"message": told}}).encode(), status=400)
        else:
            assert conversation.json["max_completion_tokens"] > 0
            await capable(conversation)

    async with (
        ScriptedUpstream(script) as fm,
        running_router(tmp_path, providers={"p": openai_provider(fm.url)}) as signalbox,
    ):
        assert values(await probe(signalbox, capabilities=["vision"])) == {"vision": True}


async def test_a_model_that_does_not_answer_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request is given up, and nothing of it is left."""
    monkeypatch.setattr(probes, "_ASK_S", 0.1)

    async def silent(conversation: Conversation) -> None:
        await conversation.left()

    async with (
        ScriptedUpstream(silent) as fm,
        running_router(tmp_path, providers={"p": openai_provider(fm.url)}) as signalbox,
    ):
        assert values(await probe(signalbox, capabilities=["text"])) == {"text": None}
        told = signalbox.router.capability_map.learned.verdicts["p/m"]["text"]
        assert told.why == "it did not answer within 0.1 s"
        assert (await facts(signalbox))["text"] == {
            "value": None,
            "source": "probe",
            "date": told.date,
            "why": told.why,
        }


async def test_a_client_that_cannot_store_is_told(tmp_path: Path) -> None:
    """What could not be kept does not count either."""
    async with (
        ScriptedUpstream(capable) as fm,
        running_router(tmp_path, providers={"p": openai_provider(fm.url)}) as signalbox,
    ):
        database = signalbox.router._folder.database
        database.mkdir()
        response = await probe(signalbox, capabilities=["text"])
        assert response.json()["error"]["code"] == "store_unavailable"
        assert signalbox.router.capability_map.learned.verdicts == {}
        database.rmdir()


@pytest.mark.mlx
async def test_the_builtin_model_that_sees_is_seen_to_see(
    tmp_path: Path, tiny_vision_model: Path
) -> None:
    """A real model on the builtin backend: it is started as for any request, and sees."""
    settings = {**tiny(tiny_vision_model), "capabilities": {"text": ["builtin/tiny"]}}
    async with served(tmp_path, **settings) as router:
        async with asyncio.timeout(110):
            response = await router.client.post(
                "/admin/models/probe", json={"model": "builtin/tiny"}, timeout=100
            )
        told = response.json()["verdicts"]
        assert told["text"]["value"] is True
        assert told["vision"]["value"] is True, told
        # The backend has the grammar, whatever the model.
        assert told["structured_output"]["value"] is True, told
