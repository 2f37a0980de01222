"""The router before a real llama.cpp server and a real Ollama: what they do, and what it says."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from openai import AsyncOpenAI

from tests.harness.one_provider import last_error
from tests.harness.real_providers import OLLAMA_CONTEXT, RealProvider
from tests.harness.running_router import RunningRouter, openai_provider, running_router
from tests.harness.scripted_upstream import ScriptedUpstream
from tests.harness.served import free_port, served, tiny

pytestmark = pytest.mark.real_provider

CHAT = "/v1/chat/completions"
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
SWITCH = {
    "type": "object",
    "properties": {"on": {"type": "boolean"}},
    "required": ["on"],
    "additionalProperties": False,
}
TOOLS = [{"type": "function", "function": {"name": "light", "parameters": SWITCH}}]
AS_SWITCH = {"type": "json_schema", "json_schema": {"name": "switch", "schema": SWITCH}}
# llama.cpp's server has 2,048 tokens for one request, Ollama fewer.
TOO_LONG = [{"role": "user", "content": "word " * 5000}]
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
    "+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
SHOWN = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
PICTURE = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, SHOWN]}]
# As long as a stream may become that nobody cancels; at the very least seconds.
ENDLESS = 1500
PREDICTED = "llamacpp:tokens_predicted_total "


def asked(**fields: Any) -> dict[str, Any]:
    """Return a request for a few words, the likeliest ones."""
    return {"model": "text", "messages": QUESTION, "temperature": 0, "max_tokens": 4, **fields}


def of(provider: RealProvider, kind: str) -> dict[str, Any]:
    """Return the settings of a provider."""
    if kind == "ollama":
        return {"kind": "ollama", "base_url": provider.url}
    return openai_provider(f"{provider.url}/v1")


@pytest.fixture(scope="session", params=["llama_server", "ollama"])
def kind(request: pytest.FixtureRequest) -> str:
    """Return the name of each provider in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def provider(kind: str, request: pytest.FixtureRequest) -> RealProvider:
    """Return each provider in turn."""
    running: RealProvider = request.getfixturevalue(kind)
    return running


@pytest.fixture
async def signalbox(
    kind: str, provider: RealProvider, tmp_path: Path
) -> AsyncIterator[RunningRouter]:
    """Run a router that serves everything by one of them."""
    async with before(provider, kind, tmp_path) as signalbox:
        yield signalbox


async def test_an_answer_and_who_gave_it(kind: str, signalbox: RunningRouter) -> None:
    """The provider's words and counts arrive, and the headers name it."""
    answer = await signalbox.chat(asked())
    assert answer.status_code == 200, answer.text
    whole = answer.json()
    assert whole["choices"][0]["message"]["content"]
    assert whole["choices"][0]["finish_reason"] == "length"
    assert whole["usage"]["completion_tokens"] == 4
    told = {name: answer.headers[f"x-signalbox-{name}"] for name in ("provider", "model")}
    assert told == {"provider": kind, "model": "smollm2"}
    assert answer.headers["x-signalbox-capability"] == "text"
    assert answer.headers["x-signalbox-attempts"] == "1"


async def test_a_stream_arrives_whole_with_its_usage(signalbox: RunningRouter) -> None:
    """Each token is an event, the counts come last before the end, and the words are the same."""
    whole = (await signalbox.chat(asked())).json()["choices"][0]["message"]["content"]
    answer = await signalbox.chat(asked(stream=True, stream_options={"include_usage": True}))
    assert answer.headers["content-type"] == "text/event-stream"
    *events, done, rest = answer.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    *pieces, last = chunks
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 4
    said = [piece["choices"][0]["delta"].get("content") or "" for piece in pieces]
    assert "".join(said) == whole
    assert len([piece for piece in said if piece]) > 2


@pytest.mark.parametrize("stream", [False, True])
async def test_a_schema_holds(signalbox: RunningRouter, *, stream: bool) -> None:
    """Both enforce it, streamed too, and even on a model that would never think of it."""
    body = asked(model="auto", response_format=AS_SWITCH, max_tokens=60, stream=stream)
    answer = await signalbox.chat(body)
    assert answer.headers["x-signalbox-capability"] == "structured_output"
    told = json.loads(text_of(answer.text) if stream else whole_text(answer))
    assert isinstance(told.pop("on"), bool)
    assert told == {}


async def test_responses_over_chat(kind: str, signalbox: RunningRouter) -> None:
    """Both are asked in chat completions; whole and streamed, OpenAI's SDK reads the same."""
    async with AsyncOpenAI(base_url=signalbox.url, api_key="any", max_retries=0) as client:
        asked: Any = {"model": "auto", "input": QUESTION, "temperature": 0}
        told = await client.responses.with_raw_response.create(**asked, max_output_tokens=4)
        assert told.headers["x-signalbox-provider"] == kind
        whole = told.parse()
        assert (whole.status, whole.object) == ("incomplete", "response")
        assert whole.usage
        assert whole.usage.output_tokens == 4
        stream = await client.responses.create(**asked, max_output_tokens=4, stream=True)
        *_, last = [event async for event in stream]
        assert last.type == "response.incomplete"
        assert last.response.output_text == whole.output_text
        assert last.response.usage
        assert last.response.usage.output_tokens == 4
        switch: Any = {"type": "json_schema", "name": "switch", "schema": SWITCH}
        async with client.responses.stream(**asked, text={"format": switch}) as events:
            answer = await events.get_final_response()
    assert isinstance(json.loads(answer.output_text)["on"], bool)


# Three of two: whoever keeps to the rest of it cannot keep to the last.
NO_SUCH = {
    "type": "array",
    "items": {"type": "boolean"},
    "minItems": 3,
    "maxItems": 3,
    "uniqueItems": True,
}


async def test_what_a_server_leaves_out_of_a_schema_is_told(
    kind: str, provider: RealProvider, tmp_path: Path
) -> None:
    """Both take a schema whole and hold the answer to a part of it."""
    binding = {"models": [f"{kind}/{provider.model}"], "enforce": "repair"}
    as_none = {"type": "json_schema", "json_schema": {"name": "none", "schema": NO_SUCH}}
    async with running_router(
        tmp_path,
        providers={kind: of(provider, kind)},
        capabilities={"structured_output": binding},
    ) as signalbox:
        signalbox.client.timeout = 110
        told = []
        for wanted in (AS_SWITCH, as_none):
            body = asked(model="auto", response_format=wanted, max_tokens=60)
            answer = await signalbox.chat(body)
            assert answer.status_code == 200, answer.text
            headers = (
                answer.headers[f"x-signalbox-{name}"] for name in ("enforcement", "attempts")
            )
            told.append(tuple(headers))
    assert told == [("valid", "1"), ("invalid", "2")]


def whole_text(answer: httpx2.Response) -> str:
    """Return the text of an answer."""
    return str(answer.json()["choices"][0]["message"]["content"])


def text_of(stream: str) -> str:
    """Return the text of a stream."""
    events = stream.removesuffix("data: [DONE]\n\n").split("\n\n")[:-1]
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    return "".join(
        choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]
    )


async def test_ollama_keeps_to_a_limit_by_its_newer_name(
    ollama: RealProvider, tmp_path: Path
) -> None:
    """It does not know the name: without the shim its model runs on, to the end of its window."""
    limit = {"max_tokens": None, "max_completion_tokens": 3}
    async with before(ollama, "ollama", tmp_path) as signalbox:
        answer = await signalbox.chat(asked(**limit))
    assert answer.headers["x-signalbox-shims"] == "max_tokens,context"
    assert answer.json()["usage"]["completion_tokens"] == 3
    async with httpx2.AsyncClient(trust_env=False, timeout=60) as client:
        body = {**asked(**limit, stop=["."]), "model": ollama.model}
        alone = await client.post(f"{ollama.url}{CHAT}", json=body)
    assert alone.json()["usage"]["completion_tokens"] > 3


async def test_llama_server_leaves_out_tools_that_a_template_does_not_know(
    llama_server: RealProvider, tmp_path: Path
) -> None:
    """Even required ones: only its /props tells, and the answer is text like any other."""
    async with before(llama_server, "llama_server", tmp_path) as signalbox:
        answer = await signalbox.chat(
            asked(model="auto", tools=TOOLS, tool_choice="required", max_tokens=30)
        )
        assert answer.headers["x-signalbox-capability"] == "tool_use"
    message = answer.json()["choices"][0]["message"]
    assert message["content"]
    assert "tool_calls" not in message
    async with httpx2.AsyncClient(trust_env=False, timeout=30) as client:
        properties = (await client.get(f"{llama_server.url}/props")).json()
    assert properties["chat_template_caps"]["supports_tools"] is False
    assert properties["modalities"]["vision"] is False
    assert properties["default_generation_settings"]["n_ctx"] == 2048


async def test_llama_server_says_what_it_cannot_read(
    llama_server: RealProvider, tmp_path: Path
) -> None:
    """A prompt over its context is the caller's 400, a picture its 500, both in its words."""
    async with before(llama_server, "llama_server", tmp_path) as signalbox:
        for stream in (False, True):
            answer = await signalbox.chat(asked(messages=TOO_LONG, stream=stream))
            assert answer.status_code == 400
            error = answer.json()["error"]
            assert error["type"] == "exceed_context_size_error"
            assert error["n_prompt_tokens"] > error["n_ctx"] == 2048
        answer = await signalbox.chat(asked(model="auto", messages=PICTURE))
        assert answer.status_code == 500
        assert "image input is not supported" in answer.json()["error"]["message"]


async def test_llama_server_answers_to_any_name(llama_server: RealProvider, tmp_path: Path) -> None:
    """It serves its only model whatever it is called, and the router tells what it asked for."""
    async with before(llama_server, "llama_server", tmp_path) as signalbox:
        answer = await signalbox.chat(asked(model="llama_server/nobody", max_tokens=1))
    assert answer.status_code == 200
    assert answer.headers["x-signalbox-model"] == "nobody"
    assert answer.json()["model"] == "smollm2"


async def test_ollama_says_what_it_cannot_do(ollama: RealProvider, tmp_path: Path) -> None:
    """No tools, no such model: 400 and 404 in its own words; it is given no remote picture."""
    remote = {"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/x.png"}}
    refused: list[tuple[dict[str, Any], int, str]] = [
        (asked(model="auto", tools=TOOLS), 400, "does not support tools"),
        (asked(model="ollama/nobody"), 404, "model 'nobody' not found"),
    ]
    sees = asked(messages=[{"role": "user", "content": [remote]}])
    async with before(ollama, "ollama", tmp_path) as signalbox:
        for body, status, text in refused:
            answer = await signalbox.chat(body)
            assert answer.status_code == status, answer.text
            assert text in answer.json()["error"]["message"]
            assert "x-signalbox-error" not in answer.headers
        answer = await signalbox.chat(sees)
        assert (answer.status_code, answer.headers["x-signalbox-error"]) == (400, "1")
    async with httpx2.AsyncClient(trust_env=False, timeout=30) as client:
        # What it would have said, so that nobody misses it.
        asked_it = {**sees, "model": ollama.model}
        refusal = await client.post(f"{ollama.url}/v1/chat/completions", json=asked_it)
        assert "not currently supported" in refusal.text
        shown = await client.post(f"{ollama.url}/api/show", json={"model": ollama.model})
        listed = await client.get(f"{ollama.url}/api/tags")
    assert shown.json()["capabilities"] == ["completion"]
    assert shown.json()["model_info"]["llama.context_length"] == 8192
    (model,) = listed.json()["models"]
    assert model["name"] == "smollm2:latest"
    assert "remote_host" not in model


LONG = [{"role": "user", "content": "word " * 2 * OLLAMA_CONTEXT}]
TURNS = [{"role": role, "content": "A king, please. " * 12} for role in ("user", "assistant") * 6]
# Each message fits, all of them together do not: it leaves the oldest out.
HISTORY = [*TURNS, *QUESTION]
TOLD_SO = "without saying so"


@pytest.mark.parametrize(("messages", "stream"), [(LONG, True), (HISTORY, False)])
async def test_what_ollama_cuts_in_silence_is_said(
    ollama: RealProvider, tmp_path: Path, messages: list[dict[str, str]], *, stream: bool
) -> None:
    """It answers 200 to what it has not read: a client gets an error, the first time too."""
    await unload(ollama)
    async with before(ollama, "ollama", tmp_path) as signalbox:
        answer = await signalbox.chat(asked(messages=messages, max_tokens=1, stream=stream))
        assert answer.status_code == (200 if stream else 400), answer.text
        error = last_error(answer.content) if stream else answer.json()["error"]
        assert error["code"] == "context_length_exceeded"
        assert f"reads {OLLAMA_CONTEXT} tokens" in error["message"]
        assert TOLD_SO in error["message"]
        assert "[DONE]" not in answer.text
        # By now its window is known, and it need not be asked.
        answer = await signalbox.chat(asked(messages=messages, max_tokens=1, stream=stream))
        assert answer.status_code == 400
        assert f"room for {OLLAMA_CONTEXT} tokens" in answer.json()["error"]["message"]


async def test_what_ollama_cuts_goes_to_who_reads_it(
    ollama: RealProvider, llama_server: RealProvider, tmp_path: Path
) -> None:
    """llama.cpp's server has room for it; a prompt that fits stays where it was, and says so."""
    await unload(ollama)
    async with running_router(
        tmp_path,
        providers={"ollama": of(ollama, "ollama"), "llama": of(llama_server, "llama_server")},
        capabilities={"text": ["ollama/smollm2", "llama/smollm2"]},
    ) as signalbox:
        signalbox.client.timeout = 110
        for attempts in (2, 1):
            answer = await signalbox.chat(asked(messages=LONG, max_tokens=1))
            assert answer.headers["x-signalbox-provider"] == "llama"
            assert answer.headers["x-signalbox-attempts"] == str(attempts)
            assert answer.json()["usage"]["prompt_tokens"] > 2 * OLLAMA_CONTEXT
        for stream in (False, True):
            answer = await signalbox.chat(asked(stream=stream))
            assert answer.headers["x-signalbox-provider"] == "ollama"
            shims = "usage,context" if stream else "context"
            assert answer.headers["x-signalbox-shims"] == shims
            assert "usage" not in answer.text if stream else answer.json()["usage"]


async def test_ollama_leaves_out_a_picture_and_does_not_say_so(
    ollama: RealProvider, tmp_path: Path
) -> None:
    """A model that cannot see answers 200 all the same: only /api/show tells."""
    async with before(ollama, "ollama", tmp_path) as signalbox:
        answer = await signalbox.chat(asked(model="auto", messages=PICTURE))
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-signalbox-capability"] == "vision"


async def test_down_means_the_next_one_answers(
    llama_server: RealProvider, tmp_path: Path, tiny_vision_model: Path
) -> None:
    """Where llama.cpp's server is not there the builtin backend answers instead."""
    settings = tiny(tiny_vision_model)
    nowhere = openai_provider(f"http://127.0.0.1:{free_port()}/v1")
    settings["providers"]["llama"] = nowhere
    capabilities = {"text": ["llama/smollm2", "builtin/tiny"]}
    async with served(tmp_path, **settings, capabilities=capabilities) as router:
        answer = await router.client.post(CHAT, json=asked(), timeout=110)
        assert_answered_by("builtin", answer, asked=2)


async def test_the_builtin_backend_falls_back_too(
    llama_server: RealProvider, tmp_path: Path, tiny_vision_model: Path
) -> None:
    """Where the builtin backend's process does not start llama.cpp's server answers instead."""
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o700)
    settings = tiny(tiny_vision_model, python=str(broken))
    settings["providers"]["llama"] = of(llama_server, "llama_server")
    capabilities = {"text": ["builtin/tiny", "llama/smollm2"]}
    async with served(tmp_path, **settings, capabilities=capabilities) as router:
        answer = await router.client.post(CHAT, json=asked(), timeout=110)
        # A backend whose process is not there was not asked.
        assert_answered_by("llama", answer, asked=1)


def assert_answered_by(name: str, answer: httpx2.Response, *, asked: int) -> None:
    """Check that this provider answered, as the last of so many that were asked."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-signalbox-provider"] == name
    assert answer.headers["x-signalbox-attempts"] == str(asked)
    assert whole_text(answer)


async def test_a_prompt_that_llama_server_has_no_room_for_goes_on(
    llama_server: RealProvider, tmp_path: Path
) -> None:
    """It refuses it at once, and the next one answers."""
    async with (
        ScriptedUpstream() as fm,
        running_router(
            tmp_path,
            providers={"llama": of(llama_server, "llama_server"), "fm": openai_provider(fm.url)},
            capabilities={"text": ["llama/smollm2", "fm/large"]},
        ) as signalbox,
    ):
        signalbox.client.timeout = 110
        assert_answered_by("fm", await signalbox.chat(asked(messages=TOO_LONG)), asked=2)


async def test_a_client_that_leaves_ends_the_work_at_llama_server(
    llama_server: RealProvider, tmp_path: Path
) -> None:
    """The slot is free long before the stream's end, and the router holds nothing any more."""
    async with before(llama_server, "llama_server", tmp_path) as signalbox:
        counted = await tokens_predicted(llama_server)
        async with streaming(signalbox):
            assert await busy_slots(llama_server) == 1
        async with asyncio.timeout(20):
            while await busy_slots(llama_server):
                await asyncio.sleep(0.01)
        assert await tokens_predicted(llama_server) - counted < ENDLESS / 2


async def test_high_goes_before_low_at_a_busy_provider(
    llama_server: RealProvider, tmp_path: Path
) -> None:
    """Who waits for the provider's only place gets it by priority, not by the time of arrival."""
    lanes = {"default": {"concurrency": 1, "queue": 8, "reserve_high": 0}}
    async with before(llama_server, "llama_server", tmp_path, lanes=lanes) as signalbox:
        order: list[str] = []

        async def ask(priority: str) -> None:
            body = asked(max_tokens=1)
            answer = await signalbox.client.post(CHAT, json=body, params={"priority": priority})
            assert answer.status_code == 200, answer.text
            order.append(priority)

        async with asyncio.TaskGroup() as tasks:  # noqa: SIM117 see below
            # Left before the tasks are awaited: that is what frees the place.
            async with streaming(signalbox):
                for number, priority in enumerate(("low", "low", "high"), 2):
                    tasks.create_task(ask(priority))
                    async with asyncio.timeout(20):
                        while len(signalbox.router.in_flight) < number:
                            await asyncio.sleep(0.005)
                assert order == []
        assert order == ["high", "low", "low"]


@asynccontextmanager
async def before(
    provider: RealProvider, kind: str, folder: Path, **sections: Any
) -> AsyncIterator[RunningRouter]:
    """Run a router that serves everything by this provider alone."""
    capabilities = ("text", "structured_output", "tool_use", "vision")
    async with running_router(
        folder,
        providers={kind: of(provider, kind)},
        capabilities={each: [f"{kind}/{provider.model}"] for each in capabilities},
        **sections,
    ) as signalbox:
        signalbox.client.timeout = 110
        yield signalbox


@asynccontextmanager
async def streaming(signalbox: RunningRouter) -> AsyncIterator[None]:
    """Hold a LOW stream that has begun and would go on for long, until the block ends."""
    story = [{"role": "user", "content": "Write a long story of a journey around the world."}]
    body = asked(messages=story, stream=True, max_tokens=ENDLESS, ignore_eos=True)
    async with signalbox.client.stream("POST", CHAT, json=body) as answer:
        # Kept: once the iterator is gone, so is the stream.
        lines = answer.aiter_lines()
        assert (await anext(lines)).startswith("data: ")
        yield


async def busy_slots(llama_server: RealProvider) -> int:
    """Return how many requests llama.cpp's server works on."""
    async with httpx2.AsyncClient(trust_env=False, timeout=30) as client:
        slots = (await client.get(f"{llama_server.url}/slots")).json()
    return sum(slot["is_processing"] for slot in slots)


async def tokens_predicted(llama_server: RealProvider) -> int:
    """Return how many tokens llama.cpp's server has generated since its start."""
    async with httpx2.AsyncClient(trust_env=False, timeout=30) as client:
        metrics = (await client.get(f"{llama_server.url}/metrics")).text
    (line,) = [one for one in metrics.splitlines() if one.startswith(PREDICTED)]
    return int(float(line.split()[1]))


async def unload(ollama: RealProvider) -> None:
    """Have Ollama forget that the model was ever loaded."""
    async with httpx2.AsyncClient(trust_env=False, timeout=30) as client:
        body = {"model": ollama.model, "keep_alive": 0}
        await client.post(f"{ollama.url}/api/generate", json=body)
        async with asyncio.timeout(20):
            while (await client.get(f"{ollama.url}/api/ps")).json()["models"]:
                await asyncio.sleep(0.01)
