"""Asking providers for their models, on real sockets, and what routing makes of the answers."""

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from router.app import Router
from router.discovery import DiscoveryFailed
from tests.harness.authority import Authority
from tests.harness.children import until
from tests.harness.edited import in_flight
from tests.harness.running_router import RunningRouter, openai_provider, running_router
from tests.harness.scripted_upstream import CHAT, Conversation, ScriptedUpstream

HELLO = {"messages": [{"role": "user", "content": "hello"}]}
LOCAL_ONLY = {"x-signalbox-local-only": "true"}


class FakeOllama:
    """Answers as Ollama does; `tags` may change, `asked` tells which paths were asked for."""

    def __init__(self, *tags: dict[str, Any], shown: dict[str, Any] | None = None) -> None:
        self.tags = list(tags)
        self.shown = shown or {}
        self.asked: list[str] = []
        self.may_show = asyncio.Event()
        self.may_show.set()
        self.may_list = asyncio.Event()
        self.may_list.set()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def __call__(self, conversation: Conversation) -> None:
        self.asked.append(conversation.target)
        if conversation.target == "/api/tags":
            await self.may_list.wait()
            await conversation.answer(json.dumps({"models": self.tags}).encode())
        elif conversation.target == "/api/show":
            await self.may_show.wait()
            shown = self.shown.get(conversation.json["model"], {})
            await conversation.answer(json.dumps(shown).encode())
        else:
            await self.may_answer.wait()
            await conversation.answer(CHAT)


def tag(name: str, **more: str) -> dict[str, Any]:
    return {"name": name, "model": name, "digest": f"sha-{name}", **more}


CLOUD = {"remote_host": "https://ollama.example", "remote_model": "big"}


def ollama(fm: ScriptedUpstream, **more: Any) -> dict[str, Any]:
    return {"kind": "ollama", "base_url": fm.url.removesuffix("/v1"), **more}


async def heard_of(router: Router, model: str) -> None:
    """Return once the router knows a model from its provider's list."""
    async with asyncio.timeout(5):
        while not any(
            model in each.models for each in router.capability_map.learned.listings.values()
        ):
            await asyncio.sleep(0.005)


def code(response: Any) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


async def _until_described(router: Router, model: str) -> Any:
    async with asyncio.timeout(5):
        while not (known := router.capability_map.catalog.models[model]).facts:
            await asyncio.sleep(0.005)
    return known


async def test_a_bound_ollama_is_asked_at_start_and_its_facts_route(tmp_path: Path) -> None:
    """What `/api/show` says keeps a picture from a model that cannot see."""
    script = FakeOllama(
        tag("blind:latest"),
        shown={
            "blind:latest": {
                "capabilities": ["completion"],
                "model_info": {"general.architecture": "b", "b.context_length": 2048},
            }
        },
    )
    async with (
        ScriptedUpstream(script) as fm,
        running_router(
            tmp_path, providers={"o": ollama(fm)}, capabilities={"text": ["o/blind"]}
        ) as signalbox,
    ):
        model = await _until_described(signalbox.router, "o/blind")
        assert model.context_length == 2048
        seen = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}
        assert code(await signalbox.chat({"model": "o/blind", "messages": [seen]})) == (
            400,
            "capability_mismatch",
        )
        assert (await signalbox.chat(HELLO)).status_code == 200
    assert script.asked == ["/api/tags", "/api/show", "/v1/chat/completions"]


@pytest.mark.parametrize("name", ["o/big", "o/big:latest", "text"])
async def test_a_model_that_ollama_sends_to_its_cloud_is_remote(tmp_path: Path, name: str) -> None:
    """Under local_only its prompts go nowhere; without it the fallback rule holds for it."""
    script = FakeOllama(tag("big:latest", **CLOUD), tag("small"))
    async with (
        ScriptedUpstream(script) as fm,
        running_router(
            tmp_path,
            providers={"o": ollama(fm)},
            capabilities={"text": ["o/big"], "vision": ["o/small", "o/big"]},
        ) as signalbox,
    ):
        await signalbox.router.discovery.discover("o")
        refused = await signalbox.chat({**HELLO, "model": name}, **LOCAL_ONLY)
        assert code(refused) == (403, "remote_not_allowed")
        assert (await signalbox.chat({**HELLO, "model": "o/small"}, **LOCAL_ONLY)).is_success
        asked = {"body": {**HELLO, "model": "vision"}}
        told = (await signalbox.client.post("/admin/explain", json=asked)).json()
        assert [(route["model"], route["locality"]) for route in told["routes"]] == [
            ("small", "local")
        ]
        assert "remote fallback" in told["candidates"][1]["why"]
    # Nor is it asked about: the question might go on to the cloud as well.
    shows = [each.json["model"] for each in fm.seen if each.target == "/api/show"]
    assert shows == ["small"]
    chats = [each for each in fm.seen if each.target == "/v1/chat/completions"]
    assert [each.json["model"] for each in chats] == ["small"]


async def test_a_request_that_must_stay_waits_for_the_list(tmp_path: Path) -> None:
    """As long as nobody has said that a model is local, its provider is asked before the prompt."""
    script = FakeOllama(tag("small"))
    script.may_list.clear()
    async with (
        ScriptedUpstream(script) as fm,
        running_router(
            tmp_path, providers={"o": ollama(fm)}, capabilities={"text": ["o/small"]}
        ) as signalbox,
    ):
        asking = asyncio.create_task(signalbox.chat(HELLO, **LOCAL_ONLY))
        async with asyncio.timeout(5):
            while not script.asked:
                await asyncio.sleep(0.005)
        assert not asking.done()
        script.may_list.set()
        assert (await asking).status_code == 200
        assert script.asked[0] == "/api/tags"


async def test_a_request_that_waits_goes_by_what_the_list_says_then(tmp_path: Path) -> None:
    """A model that turns out to be the cloud's gets nothing that must stay, though it was local."""
    script = FakeOllama(tag("m"))
    script.may_answer.clear()
    async with (
        ScriptedUpstream(script) as fm,
        running_router(
            tmp_path,
            providers={"o": ollama(fm)},
            capabilities={"text": ["o/m"]},
            lanes={"o": {"concurrency": 1, "reserve_high": 0}},
        ) as signalbox,
    ):
        await signalbox.router.discovery.discover("o")
        first = asyncio.create_task(signalbox.chat(HELLO, **LOCAL_ONLY))
        await until(lambda: "/v1/chat/completions" in script.asked)
        waiting = asyncio.create_task(signalbox.chat(HELLO, **LOCAL_ONLY))
        await in_flight(signalbox, 2)
        script.tags = [tag("m", **CLOUD)]
        await signalbox.router.discovery.discover("o")
        script.may_answer.set()
        assert (await first).status_code == 200
        assert code(await waiting) == (403, "remote_not_allowed")
        assert script.asked.count("/v1/chat/completions") == 1


async def test_a_model_that_the_list_does_not_name_does_not_count_as_local(tmp_path: Path) -> None:
    """It is refused with the reason, asked for again, and served once the list has it."""
    script = FakeOllama()
    async with (
        ScriptedUpstream(script) as fm,
        running_router(tmp_path, local_only=True, providers={"o": ollama(fm)}) as signalbox,
    ):
        asked = {**HELLO, "model": "o/new"}
        response = await signalbox.chat(asked)
        assert code(response) == (403, "remote_not_allowed")
        assert "has not told of o/new" in response.json()["error"]["message"]
        # A second request at once does not ask again; a provider must not be hammered.
        assert code(await signalbox.chat(asked)) == (403, "remote_not_allowed")
        assert script.asked == ["/api/tags"]
        script.tags.append(tag("new"))
        async with asyncio.timeout(5):
            while not (await signalbox.chat(asked)).is_success:
                await asyncio.sleep(0.05)


async def test_an_ollama_that_is_down_fails_closed(tmp_path: Path) -> None:
    """Nothing is sent under local_only, at once; without it the request is tried as ever."""
    async with ScriptedUpstream() as gone:
        pass
    async with running_router(
        tmp_path, providers={"o": ollama(gone)}, capabilities={"text": ["o/m"]}
    ) as signalbox:
        assert code(await signalbox.chat(HELLO, **LOCAL_ONLY)) == (403, "remote_not_allowed")
        assert code(await signalbox.chat(HELLO)) == (502, "upstream_unreachable")


async def _discovered(signalbox: RunningRouter, name: str = "p") -> list[str]:
    listing = await signalbox.router.discovery.discover(name)
    return list(listing.models)


@pytest.mark.parametrize(
    ("header", "shown"), [("authorization", "Bearer sk-1"), ("x-api-key", "sk-1")]
)
async def test_a_list_in_openais_dialect_is_asked_for_with_the_key_alone(
    tmp_path: Path, header: str, shown: str
) -> None:
    """The question carries the provider's key and headers, no body, and nothing about us."""

    async def script(conversation: Conversation) -> None:
        rows = [{"id": "org/m", "max_model_len": 4096}]
        await conversation.answer(json.dumps({"data": rows}).encode())

    async with ScriptedUpstream(script) as fm:
        key = {"api_key": {"env": "KEY"}, "key_header": header}
        settings = openai_provider(fm.url, headers={"X-Team": "a"}, **key)
        async with running_router(
            tmp_path, providers={"p": settings}, environ={"KEY": "sk-1"}
        ) as signalbox:
            assert await _discovered(signalbox) == ["p/org/m"]
            assert (await signalbox.chat({**HELLO, "model": "org/m"})).is_success
    question = fm.seen[0]
    assert (question.target, question.body) == ("/v1/models", b"")
    assert question.headers[header] == shown
    assert set(question.headers) == {
        *("host", "accept", "accept-encoding", "x-team", header, "content-length"),
    }


async def test_a_bare_id_that_a_cloud_lists_does_not_lead_there(tmp_path: Path) -> None:
    """What a remote provider merely lists is named with its provider, and the error says so."""

    async def script(conversation: Conversation) -> None:
        if conversation.target == "/v1/models":
            await conversation.answer(b'{"data": [{"id": "gpt-9"}]}')
        else:
            await conversation.answer()

    async with ScriptedUpstream(script) as fm:
        settings = openai_provider(fm.url, locality="remote")
        async with running_router(tmp_path, providers={"p": settings}) as signalbox:
            assert await _discovered(signalbox) == ["p/gpt-9"]
            response = await signalbox.chat({**HELLO, "model": "gpt-9"})
            assert code(response) == (404, "model_not_found")
            assert "p/gpt-9" in response.json()["error"]["message"]
            assert (await signalbox.chat({**HELLO, "model": "p/gpt-9"})).is_success


async def _garbage(conversation: Conversation) -> None:
    await conversation.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n")
    while True:
        await conversation.send(b"x" * 1_000_000)


async def _page(conversation: Conversation) -> None:
    await conversation.answer(b"<html>", kind="text/html")


async def _refusal(conversation: Conversation) -> None:
    await conversation.answer(b"{}", status=401)


async def _silence(conversation: Conversation) -> None:
    await conversation.left()


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (_garbage, "more than 32000000 bytes"),
        (_page, "not JSON"),
        (_refusal, "answered 401"),
        (_silence, "did not list its models in 0.2 s"),
    ],
)
async def test_a_provider_that_lists_nothing_is_told_as_that(
    tmp_path: Path, script: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Garbage without end, a page, a refusal and silence: each ends, and routing goes on."""
    monkeypatch.setattr("router.discovery._LIST_S", 20.0 if script is _garbage else 0.2)
    async with (
        ScriptedUpstream(script) as fm,
        running_router(tmp_path, providers={"p": openai_provider(fm.url)}) as signalbox,
    ):
        with pytest.raises(DiscoveryFailed, match=said):
            await _discovered(signalbox)
        assert signalbox.router.capability_map.learned.listings == {}


async def test_the_control_plane_has_local_and_bound_providers_asked(tmp_path: Path) -> None:
    """A cloud that nothing is bound to is left alone; one that is bound is asked for its list."""

    async def script(conversation: Conversation) -> None:
        await conversation.answer(b'{"data": [{"id": "m"}]}')

    async with (
        ScriptedUpstream(script) as here,
        ScriptedUpstream(script) as cloud,
        ScriptedUpstream(script) as idle,
        running_router(
            tmp_path,
            discovery={"every_s": 300},
            providers={
                "here": openai_provider(here.url),
                "cloud": openai_provider(cloud.url, locality="remote"),
                "idle": openai_provider(idle.url, locality="remote"),
            },
            capabilities={"text": ["cloud/m"]},
        ) as signalbox,
    ):
        assert here.seen == cloud.seen == []
        await signalbox.client.get("/admin/capabilities")
        await heard_of(signalbox.router, "here/m")
        await heard_of(signalbox.router, "cloud/m")
        assert len(here.seen) == len(cloud.seen) == 1
        assert idle.seen == []


async def test_a_provider_that_is_new_or_another_is_asked_at_once(tmp_path: Path) -> None:
    """Whoever adds one, or moves it, does not wait half a minute for its models."""

    async def script(conversation: Conversation) -> None:
        await conversation.answer(b'{"data": [{"id": "m"}]}')

    async def moved(conversation: Conversation) -> None:
        await conversation.answer(b'{"data": [{"id": "other"}]}')

    path = "/admin/providers"
    async with (
        ScriptedUpstream(script) as fm,
        ScriptedUpstream(moved) as there,
        running_router(tmp_path, discovery={"every_s": 300}) as signalbox,
    ):
        told = {"name": "p", **openai_provider(fm.url)}
        assert (await signalbox.client.post(path, json=told)).is_success
        await heard_of(signalbox.router, "p/m")
        changes = {"base_url": there.url}
        assert (await signalbox.client.patch(f"{path}/p", json=changes)).is_success
        await heard_of(signalbox.router, "p/other")
        # A change of another one is no reason to ask again.
        told = {"name": "q", **openai_provider(fm.url)}
        assert (await signalbox.client.post(path, json=told)).is_success
        await heard_of(signalbox.router, "q/m")
        assert len(there.seen) == 1


async def test_a_list_that_says_the_same_changes_nothing(tmp_path: Path) -> None:
    """The catalog stays the very same, so that plans are remembered; news make a new one."""
    script = FakeOllama(tag("a"))
    async with (
        ScriptedUpstream(script) as fm,
        running_router(tmp_path, providers={"o": ollama(fm)}) as signalbox,
    ):
        discovery, the_map = signalbox.router.discovery, signalbox.router.capability_map
        await discovery.discover("o")
        before = the_map.catalog
        await discovery.discover("o")
        assert the_map.catalog is before
        # What was shown once is not asked about again.
        assert script.asked.count("/api/show") == 1
        script.tags.append(tag("b"))
        await discovery.discover("o")
        assert "o/b" in the_map.catalog.models


async def _until_asked(script: FakeOllama, path: str) -> None:
    async with asyncio.timeout(5):
        while path not in script.asked:
            await asyncio.sleep(0.005)


@pytest.mark.usefixtures("small_platform")
async def test_a_question_ends_where_it_began(tmp_path: Path, authority: Authority) -> None:
    """An edit of the provider closes the way to it after the answers, as it does for requests."""
    # More than are asked about at once: the last one's turn comes after the edit.
    tags = [tag(f"m{number}") for number in range(5)]
    script = FakeOllama(*tags, shown={"m4": {"capabilities": ["completion"]}})
    script.may_list.clear()
    script.may_show.clear()
    async with (
        ScriptedUpstream(script, tls=authority.server()) as fm,
        running_router(tmp_path, discovery={"every_s": 300}) as signalbox,
    ):

        async def edit(idle_s: float) -> None:
            changes = {"timeouts": {"idle_s": idle_s}}
            response = await signalbox.client.patch("/admin/providers/o", json=changes)
            assert response.is_success

        told = {"name": "o", "ca_file": str(authority.file), **ollama(fm)}
        assert (await signalbox.client.post("/admin/providers", json=told)).is_success
        await _until_asked(script, "/api/tags")
        await edit(3.0)
        script.may_list.set()
        await _until_asked(script, "/api/show")
        await edit(4.0)
        script.may_show.set()
        await _until_described(signalbox.router, "o/m4")
    assert script.asked == ["/api/tags", *["/api/show"] * 5]


async def test_a_description_does_not_bring_back_an_older_list(tmp_path: Path) -> None:
    """What was listed while models were asked about stays."""
    script = FakeOllama(tag("a"), shown={"a": {"capabilities": ["completion"]}})
    script.may_show.clear()
    async with (
        ScriptedUpstream(script) as fm,
        running_router(tmp_path, providers={"o": ollama(fm)}) as signalbox,
    ):
        discovery = signalbox.router.discovery
        describing = asyncio.create_task(discovery.discover("o"))
        await _until_asked(script, "/api/show")
        script.tags.append(tag("b", **CLOUD))
        discovery._asked.clear()
        await discovery.settle(["o"])
        script.may_show.set()
        listing = await describing
        assert set(listing.models) == {"o/a", "o/b"}
        assert listing.models["o/a"].facts


class Hanging(FakeOllama):
    """An Ollama that is asked in vain about whatever is called `stuck`."""

    async def __call__(self, conversation: Conversation) -> None:
        if conversation.target == "/api/show" and "stuck" in conversation.json["model"]:
            self.asked.append(conversation.target)
            await conversation.left()
        else:
            await super().__call__(conversation)


async def test_an_ollama_that_hangs_keeps_no_other_from_being_heard(tmp_path: Path) -> None:
    """All whose turn it is are asked at once."""
    script = FakeOllama(tag("n"), shown={"n": {"capabilities": ["completion"]}})
    async with (
        ScriptedUpstream(Hanging(tag("stuck"))) as first,
        ScriptedUpstream(script) as second,
        running_router(
            tmp_path,
            discovery={"every_s": 300},
            providers={"hanging": ollama(first), "other": ollama(second)},
        ) as signalbox,
    ):
        await signalbox.client.get("/admin/capabilities")
        await heard_of(signalbox.router, "other/n")
        await _until_described(signalbox.router, "other/n")


async def test_what_was_said_in_time_counts_where_the_rest_is_not_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred questions without an answer do not take a hundred deadlines."""
    monkeypatch.setattr("router.discovery._ALL_SHOWN_S", 0.2)
    stuck = (tag(f"stuck{number}") for number in range(100))
    script = Hanging(tag("m"), *stuck, shown={"m": {"capabilities": ["completion"]}})
    async with (
        ScriptedUpstream(script) as fm,
        running_router(tmp_path, providers={"o": ollama(fm)}) as signalbox,
    ):
        async with asyncio.timeout(5):
            listing = await signalbox.router.discovery.discover("o")
        assert listing.models["o/m"].facts


async def test_an_ollama_that_comes_later_is_heard_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has to ask for anything: where locality hangs on a list, it is asked for again."""
    monkeypatch.setattr("router.discovery._AGAIN_S", 0.02)
    async with ScriptedUpstream() as gone:
        port = gone.port
    async with (
        running_router(
            tmp_path, providers={"o": ollama(gone)}, capabilities={"text": ["o/m"]}
        ) as signalbox,
        ScriptedUpstream(FakeOllama(tag("m")), port=port),
    ):
        await heard_of(signalbox.router, "o/m")
        assert (await signalbox.chat(HELLO, **LOCAL_ONLY)).is_success


async def test_who_does_not_answer_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A log does not fill with an Ollama that nobody has started."""
    monkeypatch.setattr("router.discovery._AGAIN_S", 0.02)
    caplog.set_level("INFO", logger="router.discovery")
    asked = 0

    async def page(conversation: Conversation) -> None:
        nonlocal asked
        asked += 1
        await conversation.answer(b"<html>", kind="text/html")

    async with (
        ScriptedUpstream(page) as fm,
        running_router(
            tmp_path, providers={"o": ollama(fm)}, capabilities={"text": ["o/m"]}
        ) as signalbox,
    ):
        async with asyncio.timeout(5):
            while asked < 3:
                await asyncio.sleep(0.005)
        assert len(caplog.records) == 1, caplog.text
        assert "does not tell its models: not JSON" in caplog.text
        assert code(await signalbox.chat(HELLO, **LOCAL_ONLY)) == (403, "remote_not_allowed")


async def test_an_assignment_has_its_ollama_asked(tmp_path: Path) -> None:
    """Who points at a model wants to know where it runs, before the first request does."""
    script = FakeOllama(tag("m"))
    async with (
        ScriptedUpstream(script) as fm,
        running_router(tmp_path, providers={"o": ollama(fm)}) as signalbox,
    ):
        await signalbox.client.get("/admin/capabilities")
        assert script.asked == []
        body = {"models": ["o/m"]}
        assert (await signalbox.client.put("/admin/capabilities/text", json=body)).is_success
        await heard_of(signalbox.router, "o/m")


async def test_a_model_that_its_provider_does_not_list_cannot_be_assigned(tmp_path: Path) -> None:
    """A slip is told at once; what has come since, and what the user declared, is accepted."""
    script = FakeOllama(tag("small"))
    async with (
        ScriptedUpstream(script) as fm,
        running_router(
            tmp_path, providers={"o": ollama(fm)}, models={"o/declared": {}}
        ) as signalbox,
    ):

        async def assign(name: str) -> Any:
            body = {"models": [name]}
            return await signalbox.client.put("/admin/capabilities/text", json=body)

        # As long as there is no list, nobody knows better.
        assert (await assign("o/whatever")).is_success
        await signalbox.router.discovery.discover("o")
        refused = await assign("o/smal")
        assert code(refused) == (404, "model_not_found")
        assert "o lists no model 'smal'" in refused.json()["error"]["message"]
        assert (await assign("o/small")).is_success
        assert (await assign("o/declared")).is_success
        signalbox.router.discovery._asked.clear()
        script.tags.append(tag("new"))
        assert (await assign("o/new")).is_success


async def test_explaining_asks_where_a_request_would(tmp_path: Path) -> None:
    """What is explained is what would happen."""
    script = FakeOllama(tag("m"))
    async with (
        ScriptedUpstream(script) as fm,
        running_router(tmp_path, local_only=True, providers={"o": ollama(fm)}) as signalbox,
    ):
        asked = {"body": {**HELLO, "model": "o/m"}}
        told = (await signalbox.client.post("/admin/explain", json=asked)).json()
        assert told["routes"][0]["locality"] == "local"


async def test_only_a_local_models_provider_gets_the_requests_id(tmp_path: Path) -> None:
    """Nothing by which requests could be linked goes to a cloud, through an Ollama neither."""
    script = FakeOllama(tag("here"), tag("far", **CLOUD))
    async with (
        ScriptedUpstream(script) as fm,
        running_router(tmp_path, providers={"o": ollama(fm)}) as signalbox,
    ):
        await signalbox.router.discovery.discover("o")
        for name in ("here", "far"):
            assert (await signalbox.chat({**HELLO, "model": f"o/{name}"})).is_success
    chats = {each.json["model"]: each for each in fm.seen if "chat" in each.target}
    assert "x-request-id" in chats["here"].headers
    assert "x-request-id" not in chats["far"].headers


async def test_of_a_remote_ollama_nothing_but_the_list_is_asked(tmp_path: Path) -> None:
    """Its models are all remote, and none is asked about."""
    script = FakeOllama(tag("m"))
    async with (
        ScriptedUpstream(script) as fm,
        running_router(tmp_path, providers={"o": ollama(fm, locality="remote")}) as signalbox,
    ):
        await signalbox.router.discovery.discover("o")
        assert script.asked == ["/api/tags"]


async def test_a_provider_that_is_not_there_cannot_be_asked(tmp_path: Path) -> None:
    """It may have been removed a moment ago."""
    async with running_router(tmp_path) as signalbox:
        with pytest.raises(DiscoveryFailed, match="no provider p"):
            await signalbox.router.discovery.discover("p")


async def test_a_provider_that_was_down_is_asked_again_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who starts it after looking does not wait for the next round; who answered is left alone."""
    monkeypatch.setattr("router.discovery._AGAIN_S", 0.02)

    async def script(conversation: Conversation) -> None:
        await conversation.answer(b'{"data": [{"id": "m"}]}')

    # Held until it is needed, or it would be given to somebody else's connection meanwhile.
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        late = openai_provider(f"http://127.0.0.1:{port}/v1")
        async with (
            ScriptedUpstream(script) as here,
            running_router(
                tmp_path,
                discovery={"every_s": 300},
                providers={"late": late, "here": openai_provider(here.url)},
            ) as signalbox,
        ):
            await signalbox.client.get("/admin/capabilities")
            await heard_of(signalbox.router, "here/m")
            async with ScriptedUpstream(script, port=port):
                await heard_of(signalbox.router, "late/m")
            assert len(here.seen) == 1
