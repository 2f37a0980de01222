"""Anthropic's own SDK, unchanged, through a router to what knows chat completions alone."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anthropic
import pytest
from anthropic import AsyncAnthropic
from anthropic.types import ModelInfo
from pydantic import BaseModel

from router.capabilities import Capability
from tests.harness import claude_code
from tests.harness.one_provider import DONE, streams
from tests.harness.real_providers import RealProvider
from tests.harness.running_router import RunningRouter, openai_provider, running_router
from tests.harness.scripted_upstream import Conversation, Script, ScriptedUpstream

USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 4,
    "total_tokens": 13,
    "prompt_tokens_details": {"cached_tokens": 5},
}
ASK: Any = [{"role": "user", "content": "hello"}]
LOOK: Any = {
    "name": "look",
    "description": "Look somewhere.",
    "input_schema": {
        "type": "object",
        "properties": {"at": {"type": "string"}},
        "required": ["at"],
        "additionalProperties": False,
    },
}


class Switch(BaseModel):
    """Whether it is on."""

    on: bool


def sdk(port: int) -> AsyncAnthropic:
    """Return an SDK that knows a router by its address alone."""
    return AsyncAnthropic(base_url=f"http://127.0.0.1:{port}", api_key="any", max_retries=0)


@asynccontextmanager
async def _client(
    folder: Path, script: Script, **provider: Any
) -> AsyncIterator[tuple[AsyncAnthropic, ScriptedUpstream, RunningRouter]]:
    """Run a router whose every capability a chat server serves; return an SDK that knows it."""
    async with (
        ScriptedUpstream(script) as fm,
        running_router(
            folder,
            providers={"fm": openai_provider(fm.url, **provider)},
            capabilities={str(capability): ["fm/m"] for capability in Capability},
            aliases={"claude-*": "auto"},
        ) as signalbox,
        sdk(signalbox.port) as client,
    ):
        yield client, fm, signalbox


def _completion(message: dict[str, Any], finish: str = "stop") -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    return {
        "id": "c",
        "object": "chat.completion",
        "model": "m",
        "choices": [choice],
        "usage": USAGE,
    }


def _says(message: dict[str, Any], finish: str = "stop") -> Script:
    """Return the script of a chat server that says this, whole or streamed as it is asked."""

    async def script(conversation: Conversation) -> None:
        if conversation.json.get("stream"):
            await streams(*_chunks(message, finish), DONE)(conversation)
        else:
            await conversation.answer(json.dumps(_completion(message, finish)).encode())

    return script


def _chunks(message: dict[str, Any], finish: str) -> list[bytes]:
    """Return a message as llama.cpp streams it: in small pieces, the tokens at the very end."""
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": None}]
    for name in ("reasoning_content", "content"):
        deltas += [{name: word} for word in str(message.get(name) or "").split(" ") if word]
    for index, call in enumerate(message.get("tool_calls", ())):
        function = call["function"]
        half = len(function["arguments"]) // 2
        begin = {"name": function["name"], "arguments": function["arguments"][:half]}
        deltas += [
            {"tool_calls": [{**call, "index": index, "function": begin}]},
            {
                "tool_calls": [
                    {"index": index, "function": {"arguments": function["arguments"][half:]}}
                ]
            },
        ]
    chunks: list[dict[str, Any]] = [
        {"model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        for delta in deltas
    ]
    chunks.append({"model": "m", "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    chunks.append({"model": "m", "choices": [], "usage": USAGE})
    return [b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks]


def _calls(*calls: tuple[str, str, str]) -> list[dict[str, Any]]:
    return [
        {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        for call_id, name, arguments in calls
    ]


async def test_a_message(tmp_path: Path) -> None:
    """The chat server is asked at its own path, and told nothing of the client."""
    async with _client(tmp_path, _says({"content": "Hello."})) as (client, fm, _):
        made = await client.messages.with_raw_response.create(
            model="auto", max_tokens=9, system="Be brief.", messages=ASK
        )
    message = await made.parse()
    assert (message.content[0].type, message.stop_reason) == ("text", "end_turn")
    assert message.content[0].text == "Hello."  # type: ignore[union-attr]
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (4, 5, 4)
    assert message.id == f"msg_{made.headers['x-request-id']}"
    assert made.headers["x-signalbox-provider"] == "fm"
    asked = fm.seen[0]
    assert asked.target == "/v1/chat/completions"
    assert asked.json == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be brief."}, *ASK],
        "max_tokens": 9,
    }
    assert not [name for name in asked.headers if name.startswith(("anthropic", "x-stainless"))]


async def test_its_id_is_what_the_sdk_tells(tmp_path: Path) -> None:
    """Of answers and of errors."""
    async with _client(tmp_path, _says({"content": "Hello."})) as (client, _, signalbox):
        made = await client.messages.with_raw_response.create(
            model="auto", max_tokens=9, messages=ASK
        )
        with pytest.raises(anthropic.NotFoundError) as raised:
            await client.messages.create(model="nobody", max_tokens=9, messages=ASK)
        others = await signalbox.client.get("/v1/models")
    assert made.request_id == made.headers["x-request-id"]
    assert raised.value.request_id == raised.value.response.headers["x-request-id"]
    assert "request-id" not in others.headers


async def test_models_are_listed_for_the_sdk(tmp_path: Path) -> None:
    """All at once, and one by its name; others are told in OpenAI's shape."""
    async with _client(tmp_path, _says({"content": "Hello."})) as (client, _, signalbox):
        listed = [model async for model in client.models.list(limit=1)]
        one = await client.models.retrieve("fm/m")
        others = (await signalbox.client.get("/v1/models")).json()
    assert [model.id for model in listed] == [row["id"] for row in others["data"]]
    assert others["object"] == "list"
    for model in listed:
        ModelInfo.model_validate(model.model_dump(), strict=True)
    assert listed[0].display_name == "auto"
    assert one in listed


async def test_a_stream_is_the_message(tmp_path: Path) -> None:
    """What the SDK puts together of it is what it gets whole."""
    says = _says({"reasoning_content": "Let's see.", "content": "Hello there."})
    async with _client(tmp_path, says) as (client, fm, _):
        whole = await client.messages.create(model="auto", max_tokens=9, messages=ASK)
        async with client.messages.stream(model="auto", max_tokens=9, messages=ASK) as stream:
            said = [text async for text in stream.text_stream]
            final = await stream.get_final_message()
    assert said == ["Hello", "there."]
    assert [block.type for block in final.content] == ["thinking", "text"]
    assert final.content[0].thinking == "Let'ssee."  # type: ignore[union-attr]
    assert (final.usage, final.stop_reason, final.model) == (whole.usage, "end_turn", "m")
    assert fm.seen[1].json["stream_options"] == {"include_usage": True}


async def test_tools_are_called_and_answered(tmp_path: Path) -> None:
    """Two at once, streamed; what the client sends back comes right after its calls."""
    calls = _calls(("c1", "look", '{"at": "sea"}'), ("c2", "look", '{"at": "sky"}'))
    says = _says({"content": "Looking.", "tool_calls": calls}, "tool_calls")
    async with _client(tmp_path, says) as (client, fm, _):
        async with client.messages.stream(
            model="auto", max_tokens=9, messages=ASK, tools=[LOOK], tool_choice={"type": "any"}
        ) as stream:
            message = await stream.get_final_message()
        used = [block for block in message.content if block.type == "tool_use"]
        assert [(each.id, each.input) for each in used] == [
            ("c1", {"at": "sea"}),
            ("c2", {"at": "sky"}),
        ]
        assert message.stop_reason == "tool_use"
        results: Any = [
            {"type": "tool_result", "tool_use_id": each.id, "content": f"{each.input['at']} seen"}
            for each in used
        ]
        history: Any = [
            *ASK,
            {"role": "assistant", "content": message.content},
            {"role": "user", "content": [*results, {"type": "text", "text": "So?"}]},
        ]
        await client.messages.create(model="auto", max_tokens=9, messages=history, tools=[LOOK])
    first, second = (each.json for each in fm.seen)
    assert first["tool_choice"] == "required"
    assert [each["role"] for each in second["messages"]] == [
        *("user", "assistant", "tool", "tool", "user")
    ]
    assert [each["id"] for each in second["messages"][1]["tool_calls"]] == ["c1", "c2"]
    assert [each["content"] for each in second["messages"][2:4]] == ["sea seen", "sky seen"]


async def test_an_answer_of_a_given_shape(tmp_path: Path) -> None:
    """The SDK makes the schema of a model of pydantic's, and reads the answer by it."""
    async with _client(tmp_path, _says({"content": '{"on": true}'})) as (client, fm, _):
        parsed = await client.messages.parse(
            model="auto", max_tokens=9, messages=ASK, output_format=Switch
        )
    assert parsed.parsed_output == Switch(on=True)
    asked = fm.seen[0].json["response_format"]["json_schema"]
    assert (asked["strict"], asked["schema"]["required"]) == (True, ["on"])


async def test_tokens_are_counted(tmp_path: Path) -> None:
    """By the chat server, in an answer of one token; all of the prompt, known or not."""
    async with _client(tmp_path, _says({"content": "a"}, "length")) as (client, fm, _):
        counted = await client.messages.count_tokens(model="auto", messages=ASK, tools=[LOOK])
    assert counted.input_tokens == 9
    assert (fm.seen[0].target, fm.seen[0].json["max_tokens"]) == ("/v1/chat/completions", 1)
    assert len(fm.seen[0].json["tools"]) == 1


@pytest.mark.parametrize(("locality", "told"), [("local", "none"), ("remote", None)])
async def test_a_local_model_is_kept_from_thinking(
    tmp_path: Path, locality: str, told: str | None
) -> None:
    """Where the client does not want it; a cloud would refuse the words for it."""
    unthinking: Any = {"type": "disabled"}
    says = _says({"reasoning_content": "Hm.", "content": "a"})
    async with _client(tmp_path, says, locality=locality) as (client, fm, _):
        message = await client.messages.create(
            model="auto", max_tokens=9, messages=ASK, thinking=unthinking
        )
        own = {"reasoning_effort": "low"}
        await client.messages.create(
            model="auto", max_tokens=9, messages=ASK, thinking=unthinking, extra_body=own
        )
    assert [block.type for block in message.content] == ["text"]
    assert fm.seen[0].json.get("reasoning_effort") == told
    assert ("chat_template_kwargs" in fm.seen[0].json) is (told is not None)
    assert fm.seen[1].json["reasoning_effort"] == "low"


async def test_what_cannot_be_said_raises(tmp_path: Path) -> None:
    """By name, before anybody is asked."""
    search: Any = {"type": "web_search_20250305", "name": "web_search"}
    async with _client(tmp_path, _says({"content": "a"})) as (client, fm, _):
        with pytest.raises(anthropic.BadRequestError, match=r"tools\[0\].*web_search_20250305"):
            await client.messages.create(model="auto", max_tokens=9, messages=ASK, tools=[search])
        with pytest.raises(anthropic.BadRequestError, match="messages must be"):
            await client.messages.create(model="auto", max_tokens=9, messages=[])
        with pytest.raises(anthropic.NotFoundError):
            await client.messages.create(model="nobody/knows", max_tokens=9, messages=ASK)
    assert fm.seen == []


async def test_a_provider_s_error_is_the_sdk_s(tmp_path: Path) -> None:
    """With its own words, in the envelope that the SDK reads."""

    async def script(conversation: Conversation) -> None:
        error = {"error": {"message": "Slow down.", "type": "rate_limit_error", "code": "slow"}}
        await conversation.answer(json.dumps(error).encode(), status=429)

    async with _client(tmp_path, script) as (client, _, _signalbox):
        with pytest.raises(anthropic.RateLimitError, match=r"Slow down\.") as raised:
            await client.messages.create(model="auto", max_tokens=9, messages=ASK)
    assert raised.value.body == {
        "type": "error",
        "error": {"message": "Slow down.", "type": "rate_limit_error", "code": "slow"},
    }


@pytest.mark.parametrize(
    "chat",
    [
        {"choices": []},
        _completion({"tool_calls": _calls(("c1", "look", "no JSON"))}),
    ],
)
async def test_what_is_no_answer_raises(tmp_path: Path, chat: dict[str, Any]) -> None:
    """A message is never made up."""

    async def script(conversation: Conversation) -> None:
        await conversation.answer(json.dumps(chat).encode())

    async with _client(tmp_path, script) as (client, _, _signalbox):
        with pytest.raises(anthropic.InternalServerError, match="upstream_invalid_response"):
            await client.messages.create(model="auto", max_tokens=9, messages=ASK)


@pytest.mark.parametrize(
    "ending",
    [
        # It breaks off; it says what is no chunk; a call ends as no JSON.
        [],
        [b'data: {"choices":[{"delta":{"content":1}}]}\n\n'],
        [
            b'data: {"choices":[{"finish_reason":"tool_calls","delta":{"tool_calls":[{"function":'
            b'{"name":"f","arguments":"{"}}]}}]}\n\n' + DONE,
        ],
    ],
)
async def test_a_broken_stream_raises(tmp_path: Path, ending: list[bytes]) -> None:
    """After what was whole, and without an end."""
    begun = _chunks({"content": "Hello"}, "stop")[:2]
    async with _client(tmp_path, streams(*begun, *ending)) as (client, _, _signalbox):
        stream = await client.messages.create(model="auto", max_tokens=9, messages=ASK, stream=True)
        kinds = []
        with pytest.raises(anthropic.APIError, match="upstream_"):
            async for event in stream:
                kinds.append(event.type)  # noqa: PERF401 what came before the error counts
    assert kinds[:3] == ["message_start", "content_block_start", "content_block_delta"]
    assert "message_stop" not in kinds


async def test_a_client_that_leaves_ends_the_work(tmp_path: Path) -> None:
    """Closing the stream closes the connection to the chat server."""
    left = asyncio.Event()

    async def script(conversation: Conversation) -> None:
        await conversation.begin_stream()
        for chunk in _chunks({"content": "Hello"}, "stop")[:2]:
            await conversation.event(chunk)
        await conversation.left()
        left.set()

    async with _client(tmp_path, script) as (client, _, _signalbox):
        async with client.messages.stream(model="auto", max_tokens=9, messages=ASK) as stream:
            async for event in stream:
                if event.type == "text":
                    break
        async with asyncio.timeout(5):
            await left.wait()


async def test_a_turn_of_claude_code(tmp_path: Path) -> None:
    """Its headers, its query, its twenty tools; a stream that ends as its client expects."""
    says = _says({"content": "Done."})
    async with _client(tmp_path, says) as (_, fm, signalbox):
        answer = await signalbox.client.post(
            claude_code.TARGET,
            json=claude_code.request("claude-opus-5"),
            headers=claude_code.HEADERS,
        )
        title = await signalbox.client.post(
            claude_code.TARGET,
            json=claude_code.title("claude-haiku-4-5"),
            headers=claude_code.HEADERS,
        )
        tokens = await signalbox.client.post(
            claude_code.COUNT_TARGET,
            json=claude_code.tokens_of(model="claude-opus-5"),
            headers=claude_code.HEADERS,
        )
        # A look whether anybody is there; whatever the answer, it comes at once.
        probe = await signalbox.client.head("/")
    assert answer.headers["content-type"] == "text/event-stream"
    names = [line for line in answer.text.splitlines() if line.startswith("event: ")]
    assert (names[0], names[-1]) == ("event: message_start", "event: message_stop")
    assert len(fm.seen[0].json["tools"]) == 20
    assert title.status_code == 200
    assert tokens.json() == {"input_tokens": 9}
    assert probe.status_code < 500


@pytest.mark.real_provider
async def test_a_real_server(ollama: RealProvider, tmp_path: Path) -> None:
    """Whole, streamed, by a schema, counted, and left alone."""
    sections: dict[str, Any] = {
        "providers": {"real": openai_provider(f"{ollama.url}/v1")},
        "capabilities": {each: [f"real/{ollama.model}"] for each in ("text", "structured_output")},
    }
    question: Any = [{"role": "user", "content": "What is the capital of France?"}]
    asked: Any = {"model": "auto", "messages": question, "extra_body": {"temperature": 0}}
    async with (
        running_router(tmp_path, **sections) as signalbox,
        sdk(signalbox.port) as client,
    ):
        whole = await client.messages.create(max_tokens=12, **asked)
        async with client.messages.stream(max_tokens=12, **asked) as stream:
            final = await stream.get_final_message()
        assert whole.content[0].text
        assert final.content[0].text == whole.content[0].text  # type: ignore[union-attr]
        assert final.usage.output_tokens == whole.usage.output_tokens > 0
        parsed = await client.messages.parse(max_tokens=60, output_format=Switch, **asked)
        assert isinstance(parsed.parsed_output, Switch)
        counted = await client.messages.count_tokens(model="auto", messages=question)
        prompt = whole.usage.input_tokens + (whole.usage.cache_read_input_tokens or 0)
        assert counted.input_tokens == prompt
        unthinking: Any = {"thinking": {"type": "disabled"}}
        async with client.messages.stream(max_tokens=1500, **asked, **unthinking) as stream:
            async for event in stream:
                if event.type == "text":
                    break
