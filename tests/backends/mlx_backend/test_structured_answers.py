"""Schemas and tools over HTTP, with a model that was never taught either."""

import asyncio
import json
from typing import Any

import httpx2
import pytest
from openai import AsyncOpenAI
from pydantic import TypeAdapter

from tests.backends.mlx_backend.pictures import BLUE, RED, data_uri, encoded, question

pytestmark = pytest.mark.mlx

CHAT = "/v1/chat/completions"
ASK: Any = [{"role": "user", "content": "What colour is this?"}]
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "mood": {"enum": ["calm", "cross"]},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
    },
    "required": ["name", "age", "mood", "tags"],
    "additionalProperties": False,
}
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}


def tool(name: str, **properties: Any) -> Any:
    """Return a tool whose arguments are all required."""
    parameters = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


PAINT = tool("paint", colour={"enum": ["red", "blue"]}, coats={"type": "integer", "maximum": 9})
WASH = tool("wash", hot={"type": "boolean"})


def check_person(text: str) -> None:
    """Check that a text is JSON that fits the schema."""
    person = json.loads(text)
    assert list(person) == ["name", "age", "mood", "tags"]
    assert isinstance(person["name"], str)
    assert len(person["name"]) <= 8
    assert 0 <= person["age"] <= 150
    assert person["mood"] in {"calm", "cross"}
    TypeAdapter(list[bool]).validate_python(person["tags"], strict=True)
    assert len(person["tags"]) <= 3


def check_call(function: Any) -> None:
    """Check that a call fits its tool."""
    arguments = json.loads(function.arguments)
    if function.name == "paint":
        assert set(arguments) == {"colour", "coats"}
        assert arguments["colour"] in {"red", "blue"}
        assert isinstance(arguments["coats"], int)
    else:
        assert function.name == "wash"
        assert isinstance(arguments["hot"], bool)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("strict", [False, True])
async def test_a_schema_is_kept_to(openai: AsyncOpenAI, *, stream: bool, strict: bool) -> None:
    """Whatever is drawn, the text is JSON that fits, streamed or not, strict or not."""
    wanted = {**FORMAT["json_schema"], "strict": strict}
    fields: Any = {
        "model": "tiny",
        "messages": ASK,
        "temperature": 1.5,
        "max_tokens": 300,
        "response_format": {"type": "json_schema", "json_schema": wanted},
    }
    for seed in range(5):
        if stream:
            chunks = await openai.chat.completions.create(**fields, seed=seed, stream=True)
            choices = [chunk.choices[0] async for chunk in chunks]
            text = "".join(choice.delta.content or "" for choice in choices)
            reason = choices[-1].finish_reason
        else:
            answer = await openai.chat.completions.create(**fields, seed=seed)
            text, reason = answer.choices[0].message.content, answer.choices[0].finish_reason
        assert reason == "stop"
        check_person(text)


async def test_a_schema_beside_pictures(openai: AsyncOpenAI) -> None:
    """What a picture shows goes into the form that was asked for."""
    schema = {"enum": ["This is red.", "This is blue."]}
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "c", "schema": schema}}

    async def ask(colour: tuple[int, int, int]) -> Any:
        messages: Any = question("What colour is this?", data_uri(encoded(colour)))
        answer = await openai.chat.completions.create(
            model="tiny", messages=messages, temperature=0, response_format=wanted, max_tokens=60
        )
        return json.loads(answer.choices[0].message.content or "")

    answers = await asyncio.gather(*(ask(colour) for colour in (RED, BLUE, RED, BLUE)))
    assert answers == ["This is red.", "This is blue."] * 2


async def test_any_json_object(openai: AsyncOpenAI) -> None:
    """`json_object` gives an object, or the beginning of one when the tokens run out."""
    answer = await openai.chat.completions.create(
        model="tiny",
        messages=ASK,
        temperature=1.5,
        seed=3,
        max_tokens=40,
        response_format={"type": "json_object"},
    )
    assert (answer.choices[0].message.content or "").startswith("{")


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", {"paint", "wash"}),
        ({"type": "function", "function": {"name": "wash"}}, {"wash"}),
    ],
)
async def test_forced_calls(openai: AsyncOpenAI, choice: Any, names: set[str]) -> None:
    """At least one call comes, of what may be called, and no text."""
    for seed in range(5):
        answer = await openai.chat.completions.create(
            model="tiny",
            messages=ASK,
            tools=[PAINT, WASH],
            tool_choice=choice,
            temperature=1.5,
            seed=seed,
            max_tokens=600,
        )
        (got,) = answer.choices
        assert got.message.content is None
        calls: Any = got.message.tool_calls
        assert calls
        for call in calls:
            assert call.id.startswith("call_")
            assert call.function.name in names
        if got.finish_reason != "length":
            assert got.finish_reason == ("tool_calls" if choice == "required" else "stop")
            for call in calls:
                check_call(call.function)


async def test_calls_one_at_a_time(openai: AsyncOpenAI) -> None:
    """Without parallel calls there is exactly one."""
    for seed in range(5):
        answer = await openai.chat.completions.create(
            model="tiny",
            messages=ASK,
            tools=[PAINT, WASH],
            tool_choice="required",
            parallel_tool_calls=False,
            temperature=1.5,
            seed=seed,
            max_tokens=300,
        )
        calls: Any = answer.choices[0].message.tool_calls
        assert len(calls) == 1
        check_call(calls[0].function)


async def test_calls_as_they_come(openai: AsyncOpenAI) -> None:
    """A stream gives names at once and arguments in pieces, and no markup."""
    fields: Any = {
        "model": "tiny",
        "messages": ASK,
        "tools": [PAINT, WASH],
        "tool_choice": "required",
        "temperature": 1.5,
        "seed": 1,
        "max_tokens": 300,
    }
    whole = await openai.chat.completions.create(**fields)
    calls: dict[int, list[Any]] = {}
    reason = None
    async for chunk in await openai.chat.completions.create(**fields, stream=True):
        (choice,) = chunk.choices
        assert not choice.delta.content
        for delta in choice.delta.tool_calls or ():
            calls.setdefault(delta.index, []).append(delta)
        reason = choice.finish_reason or reason
    assert reason == "tool_calls"
    expected: Any = whole.choices[0].message.tool_calls
    assert len(calls) == len(expected)
    for index, call in enumerate(expected):
        first, *rest = calls[index]
        assert (first.function.name, first.function.arguments) == (call.function.name, "")
        assert first.id
        assert len(rest) > 1
        assert "".join(delta.function.arguments for delta in rest) == call.function.arguments


async def test_tools_that_may_be_called(openai: AsyncOpenAI) -> None:
    """A model that only talks talks; one that is led to a call makes a valid one."""
    answer = await openai.chat.completions.create(
        model="tiny", messages=ASK, tools=[PAINT], temperature=0, max_tokens=30
    )
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason in {"stop", "length"}
    # The token that opens a call is wanted more than any other.
    led = await openai.chat.completions.create(
        model="tiny",
        messages=ASK,
        tools=[PAINT],
        temperature=1.5,
        seed=2,
        parallel_tool_calls=False,
        logit_bias={str(await token_of(openai, "<tool_call>")): 100},
        max_tokens=300,
    )
    assert led.choices[0].finish_reason == "tool_calls"
    calls: Any = led.choices[0].message.tool_calls
    assert len(calls) == 1
    check_call(calls[0].function)


async def token_of(openai: AsyncOpenAI, text: str) -> int:
    """Find a token's id by what a bias for it brings out."""
    for token in range(370, 384):
        answer = await openai.chat.completions.create(
            model="tiny",
            messages=ASK,
            temperature=0,
            max_tokens=1,
            logit_bias={str(token): 100},
            logprobs=True,
        )
        logprobs = answer.choices[0].logprobs
        told = logprobs.content if logprobs else None
        if told and told[0].token == text:
            return token
    raise AssertionError(text)


async def test_a_conversation_with_calls_goes_on(openai: AsyncOpenAI) -> None:
    """What was called and what came back is part of the prompt."""
    call = {"id": "call_1", "type": "function"}
    messages: Any = [
        *ASK,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{**call, "function": {"name": "wash", "arguments": '{"hot": true}'}}],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "It is clean now."},
    ]
    both = [
        await openai.chat.completions.create(
            model="tiny", messages=some, tools=[WASH], temperature=0, max_tokens=5
        )
        for some in (messages, messages[:1])
    ]
    tokens = [answer.usage.prompt_tokens for answer in both if answer.usage]
    assert tokens[0] > tokens[1] + 20


async def test_several_choices(openai: AsyncOpenAI) -> None:
    """Each choice has its seed, and the prompt is counted once."""
    messages: Any = [{"role": "user", "content": "Please count."}]
    fields: Any = {"model": "tiny", "messages": messages, "temperature": 2, "max_tokens": 20}
    three = await openai.chat.completions.create(**fields, n=3, seed=5)
    assert [choice.index for choice in three.choices] == [0, 1, 2]
    for index, choice in enumerate(three.choices):
        one = await openai.chat.completions.create(**fields, seed=5 + index)
        assert choice.message.content == one.choices[0].message.content
        assert three.usage is not None
        assert one.usage is not None
        assert three.usage.prompt_tokens == one.usage.prompt_tokens


async def test_log_probabilities(openai: AsyncOpenAI) -> None:
    """Each token of the text has its own, and its alternatives."""
    answer = await openai.chat.completions.create(
        model="tiny", messages=ASK, temperature=0, logprobs=True, top_logprobs=3
    )
    (choice,) = answer.choices
    assert choice.logprobs is not None
    told: Any = choice.logprobs.content
    assert "".join(each.token for each in told) == choice.message.content == "I see no picture."
    for each in told:
        assert len(each.top_logprobs) == 3
        assert each.top_logprobs[0].token == each.token
        assert each.logprob == each.top_logprobs[0].logprob <= 0
        assert bytes(each.bytes).decode() == each.token


async def test_a_prompt_that_begins_alike_is_not_read_again(openai: AsyncOpenAI) -> None:
    """The second turn of a conversation tells how much of it was known."""
    text = "tell me about the weather in Paris today " * 4
    first: Any = [{"role": "user", "content": text + "first"}]
    one = await openai.chat.completions.create(
        model="tiny", messages=first, temperature=0, max_tokens=8
    )
    assert one.usage is not None
    second = [
        *first,
        {"role": "assistant", "content": one.choices[0].message.content},
        {"role": "user", "content": "and now?"},
    ]
    two = await openai.chat.completions.create(
        model="tiny", messages=second, temperature=0, max_tokens=8
    )
    assert two.usage is not None
    assert two.usage.prompt_tokens_details is not None
    cached = two.usage.prompt_tokens_details.cached_tokens or 0
    assert cached >= one.usage.prompt_tokens - 5
    assert two.usage.prompt_tokens > cached


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        (
            {"response_format": {**FORMAT, "json_schema": {"name": "x", "schema": False}}},
            "response_format",
            "no answer fits",
        ),
        (
            {
                "response_format": {
                    **FORMAT,
                    "json_schema": {"name": "x", "schema": {"$ref": "https://a/b"}},
                }
            },
            "response_format",
            "points elsewhere",
        ),
        (
            {"tools": [tool("x", a={"type": "string", "unheardOf": 1, "pattern": "(?<=a)b"})]},
            "tools[0].function.parameters",
            "",
        ),
        ({"logit_bias": {"x": 1}}, "logit_bias", "not the id of a token"),
    ],
)
async def test_what_cannot_be_enforced(
    http: httpx2.AsyncClient, fields: dict[str, Any], param: str, says: str
) -> None:
    """It is refused with the reason, never ignored."""
    answer = await http.post(CHAT, json={"model": "tiny", "messages": ASK, **fields})
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert (error["code"], error["param"]) == ("invalid_request", param)
    assert says in error["message"]
