"""The responses protocol, by OpenAI's SDK and by PydanticAI, to providers that speak chat alone."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
from openai import APIError, AsyncOpenAI, BadRequestError
from pydantic import BaseModel
from pydantic_ai import Agent, BinaryContent, NativeOutput, PromptedOutput, ToolOutput
from pydantic_ai.messages import ModelResponse, ThinkingPart
from pydantic_ai.models.openai import OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

from tests.harness.one_provider import DONE
from tests.harness.pictures import picture, uri_of
from tests.harness.running_router import openai_provider, running_router
from tests.harness.scripted_upstream import Conversation, Script, ScriptedUpstream

USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 4,
    "total_tokens": 13,
    "prompt_tokens_details": {"cached_tokens": 3},
}
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
    "+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
LOOK: Any = {
    "type": "function",
    "name": "look",
    "parameters": {"type": "object", "properties": {"at": {"type": "string"}}},
    "strict": False,
}
LIT = '{"lit": true, "colour": "red"}'


class Lamp(BaseModel):
    """A lamp."""

    lit: bool
    colour: Literal["red", "blue"]


def call(name: str, arguments: str, call_id: str = "c1") -> dict[str, Any]:
    """Return a call as a chat's message has it."""
    function = {"name": name, "arguments": arguments}
    return {"id": call_id, "type": "function", "function": function}


def answering(*messages: dict[str, Any]) -> Script:
    """Return a provider that gives these messages, one after the other, streamed where asked to."""
    left = list(messages)

    async def script(conversation: Conversation) -> None:
        message = {"role": "assistant", "content": None, **left.pop(0)}
        reason = "tool_calls" if message.get("tool_calls") else "stop"
        chat = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "usage": USAGE}
        if not conversation.json.get("stream"):
            choice = {"index": 0, "message": message, "finish_reason": reason}
            await conversation.answer(json.dumps({**chat, "choices": [choice]}).encode())
            return
        assert conversation.json["stream_options"] == {"include_usage": True}
        await conversation.begin_stream()
        for delta in pieces(message):
            choice = {"index": 0, "delta": delta, "finish_reason": None}
            await conversation.event(framed({"model": "m", "choices": [choice]}))
        end = {"index": 0, "delta": {}, "finish_reason": reason}
        await conversation.event(framed({"model": "m", "choices": [end]}))
        await conversation.event(framed({"model": "m", "choices": [], "usage": USAGE}))
        await conversation.event(DONE)
        await conversation.end_stream()

    return script


def framed(chunk: dict[str, Any]) -> bytes:
    return b"data: %s\n\n" % json.dumps(chunk).encode()


def pieces(message: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a message in pieces of a few letters."""
    cut: list[dict[str, Any]] = [{"role": "assistant", "content": None}]
    for name in ("reasoning_content", "content"):
        cut += [{name: piece} for piece in few_letters(message.get(name) or "")]
    for index, each in enumerate(message.get("tool_calls") or ()):
        function = each["function"]
        head = {**each, "index": index, "function": {**function, "arguments": ""}}
        cut += [{"tool_calls": [head]}]
        for piece in few_letters(function["arguments"]):
            cut += [{"tool_calls": [{"index": index, "function": {"arguments": piece}}]}]
    return cut


def few_letters(text: str) -> list[str]:
    return [text[place : place + 4] for place in range(0, len(text), 4)]


@asynccontextmanager
async def asking(
    folder: Path, *messages: dict[str, Any], script: Script | None = None
) -> AsyncIterator[tuple[AsyncOpenAI, ScriptedUpstream]]:
    """Run a router before a provider that speaks chat alone; return an SDK that knows it."""
    needs = ("text", "vision", "tool_use", "structured_output")
    async with (
        ScriptedUpstream(script or answering(*messages)) as fm,
        running_router(
            folder,
            providers={"fm": openai_provider(fm.url)},
            capabilities={need: ["fm/m"] for need in needs},
        ) as signalbox,
        AsyncOpenAI(base_url=signalbox.url, api_key="any", max_retries=0) as client,
    ):
        yield client, fm


async def test_an_answer_whole_and_streamed(tmp_path: Path) -> None:
    """The SDK reads both, and they are the same."""
    message = {"content": "A lamp, I think.", "reasoning_content": "Hm."}
    async with asking(tmp_path, message, message) as (client, fm):
        asked: Any = {"model": "auto", "instructions": "Be brief.", "input": "What is it?"}
        whole = await client.responses.create(**asked)
        async with client.responses.stream(**asked) as stream:
            kinds = [event.type async for event in stream]
            streamed = await stream.get_final_response()
    assert whole.output_text == streamed.output_text == "A lamp, I think."
    assert [item.type for item in whole.output] == ["reasoning", "message"]
    assert [item.type for item in streamed.output] == ["reasoning", "message"]
    assert whole.usage
    assert whole.usage.input_tokens_details.cached_tokens == 3
    assert streamed.usage == whole.usage
    assert whole.model == "m"
    assert whole.id.startswith("resp_")
    assert kinds.count("response.output_text.delta") == 4
    assert kinds[-1] == "response.completed"
    for conversation in fm.seen:
        assert conversation.target == "/v1/chat/completions"
        assert conversation.json["model"] == "m"
        assert conversation.json["messages"] == [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "What is it?"},
        ]


@pytest.mark.parametrize("stream", [False, True])
async def test_tools_are_called_and_answered(tmp_path: Path, *, stream: bool) -> None:
    """A client sends back the items that it got, and what its tools said."""
    calls = [call("look", '{"at": "sea"}'), call("look", "", "c2")]
    first = {"content": "I look.", "reasoning_content": "Where?", "tool_calls": calls}
    async with asking(tmp_path, first, {"content": "A ship."}) as (client, fm):
        said: list[Any] = [{"role": "user", "content": "What is there?"}]
        for _ in range(2):
            asked: Any = {"model": "auto", "input": said, "tools": [LOOK], "store": False}
            if stream:
                async with client.responses.stream(**asked) as events:
                    answer: Any = await events.get_final_response()
            else:
                answer = await client.responses.create(**asked)
            said += [item.to_dict() for item in answer.output]
            said += [
                {"type": "function_call_output", "call_id": item.call_id, "output": "a ship"}
                for item in answer.output
                if item.type == "function_call"
            ]
    assert answer.output_text == "A ship."
    assert fm.seen[1].json["messages"] == [
        {"role": "user", "content": "What is there?"},
        {
            "role": "assistant",
            "content": "I look.",
            "reasoning_content": "Where?",
            "tool_calls": [call("look", '{"at": "sea"}'), call("look", "{}", "c2")],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "a ship"},
        {"role": "tool", "tool_call_id": "c2", "content": "a ship"},
    ]


async def test_an_object_is_parsed(tmp_path: Path) -> None:
    """By its schema, whole and streamed."""
    async with asking(tmp_path, {"content": LIT}, {"content": LIT}) as (client, fm):
        asked: Any = {"model": "auto", "input": "Which lamp?", "text_format": Lamp}
        whole = await client.responses.parse(**asked)
        async with client.responses.stream(**asked) as stream:
            streamed = await stream.get_final_response()
    assert whole.output_parsed == streamed.output_parsed == Lamp(lit=True, colour="red")
    for conversation in fm.seen:
        schema = conversation.json["response_format"]["json_schema"]
        assert (schema["name"], schema["strict"]) == ("Lamp", True)


async def test_a_picture_is_seen(tmp_path: Path) -> None:
    """It goes to who can see."""
    shown: Any = {"type": "input_image", "image_url": f"data:image/png;base64,{PIXEL}"}
    text: Any = {"type": "input_text", "text": "What is it?"}
    async with asking(tmp_path, {"content": "A dot."}) as (client, fm):
        content: Any = [{"role": "user", "content": [text, {**shown, "detail": "low"}]}]
        told = await client.responses.with_raw_response.create(model="auto", input=content)
    assert told.headers["x-signalbox-capability"] == "vision"
    assert fm.seen[0].json["messages"][0]["content"][1] == {
        "type": "image_url",
        "image_url": {"url": shown["image_url"], "detail": "low"},
    }


async def test_what_no_chat_can_say_is_raised_by_name(tmp_path: Path) -> None:
    """Before anybody is asked."""
    async with asking(tmp_path) as (client, fm):
        with pytest.raises(BadRequestError) as raised:
            await client.responses.create(
                model="auto", input="hello", previous_response_id="resp_1"
            )
    assert (raised.value.code, raised.value.param) == (
        "unsupported_parameter",
        "previous_response_id",
    )
    assert fm.seen == []


@pytest.mark.parametrize(
    "rest",
    [b"", framed({"choices": [{"index": 0, "delta": {"content": 1}}]})],
    ids=["cut", "no text"],
)
async def test_a_broken_stream_raises(tmp_path: Path, rest: bytes) -> None:
    """What came is there, and then an error: never half an answer for a whole one."""

    async def script(conversation: Conversation) -> None:
        await conversation.begin_stream()
        for delta in ({"role": "assistant"}, {"content": "Hel"}):
            choice = {"index": 0, "delta": delta, "finish_reason": None}
            await conversation.event(framed({"choices": [choice]}))
        if rest:
            await conversation.event(rest)
        await conversation.end_stream()

    async with asking(tmp_path, script=script) as (client, _):
        stream = await client.responses.create(model="auto", input="hello", stream=True)
        said = ""
        with pytest.raises(APIError) as raised:
            async for event in stream:
                said += event.delta if event.type == "response.output_text.delta" else ""
    assert said == "Hel"
    assert raised.value.code == ("upstream_invalid_frame" if rest else "upstream_truncated")


def agents_model(client: AsyncOpenAI) -> OpenAIResponsesModel:
    """Return the router as PydanticAI knows models of the responses protocol."""
    return OpenAIResponsesModel("auto", provider=OpenAIProvider(openai_client=client))


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (ToolOutput(Lamp), {"tool_calls": [call("final_result", LIT)]}),
        (NativeOutput(Lamp), {"content": LIT}),
        (PromptedOutput(Lamp), {"content": LIT}),
    ],
    ids=["tool", "native", "prompted"],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_an_agent_has_its_output(
    tmp_path: Path, output: Any, message: dict[str, Any], *, stream: bool
) -> None:
    """In each of PydanticAI's three ways."""
    async with asking(tmp_path, message) as (client, _):
        agent = Agent(agents_model(client), output_type=output, retries=0)
        if stream:
            async with agent.run_stream("Which lamp?") as answer:
                assert await answer.get_output() == Lamp(lit=True, colour="red")
        else:
            told = await agent.run("Which lamp?")
            assert told.output == Lamp(lit=True, colour="red")
            assert (told.usage.input_tokens, told.usage.output_tokens) == (9, 4)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_agent_thinks_looks_and_sees(tmp_path: Path, *, stream: bool) -> None:
    """A tool returns a picture, what was thought comes back to who thought it."""
    first = {"reasoning_content": "Where?", "tool_calls": [call("look", '{"at":"sea"}')]}
    async with asking(tmp_path, first, {"content": "A ship."}) as (client, fm):
        agent: Agent[None, str] = Agent(agents_model(client), instructions="Be brief.", retries=0)

        @agent.tool_plain
        def look(at: str) -> Sequence[Any]:
            """Look somewhere."""
            return [f"at the {at}:", BinaryContent(picture(), media_type="image/png")]

        if stream:
            async with agent.run_stream("What is there?") as answer:
                assert await answer.get_output() == "A ship."
            messages = answer.all_messages()
        else:
            told = await agent.run("What is there?")
            assert told.output == "A ship."
            messages = told.all_messages()
    thought = messages[1]
    assert isinstance(thought, ModelResponse)
    assert isinstance(thought.parts[0], ThinkingPart)
    asked, called, result, shown = fm.seen[1].json["messages"][1:]
    assert asked == {"role": "user", "content": "What is there?"}
    assert called["reasoning_content"] == "Where?"
    assert called["tool_calls"] == first["tool_calls"]
    assert (result["role"], result["tool_call_id"]) == ("tool", "c1")
    assert shown["content"][-1]["image_url"]["url"] == uri_of(picture())
