"""Every client as it comes, in each way it asks, before the builtin backend and llama.cpp's server.

Their models were taught none of it: calls, objects and arguments are what the servers enforce.
"""

import base64
import io
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx2
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI
from PIL import Image
from pydantic import BaseModel, ConfigDict
from pydantic_ai import (
    Agent,
    BinaryContent,
    NativeOutput,
    PromptedOutput,
    RunContext,
    ToolOutput,
    UnexpectedModelBehavior,
)
from pydantic_ai.models import Model
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import ToolDefinition

from tests.harness import claude_code
from tests.harness.colours import COLOURS
from tests.harness.pictures import uri_of
from tests.harness.real_providers import RealProvider
from tests.harness.running_router import openai_provider
from tests.harness.served import Served, served, tiny

ASK = "Which lamp is it?"
QUESTION: Any = [{"role": "user", "content": ASK}]
SEEN: Any = "What colour is this?"
ENOUGH = 300


class Lamp(BaseModel):
    """A lamp; every field has few values, so that any model comes to an end."""

    model_config = ConfigDict(extra="forbid")
    lit: bool
    colour: Literal["red", "blue"]


class Nothing(BaseModel):
    """No lamp."""

    reason: Literal["dark", "broken"]


class Loose(BaseModel):
    """What any object is."""

    lit: Any = None


@dataclass(frozen=True)
class Serving:
    """A router, and whether the model behind it sees."""

    router: Served
    sees: bool


BUILTIN = pytest.param("builtin", marks=pytest.mark.mlx)


def real_server(name: str) -> Any:
    """Return the parameter for a real server, by its fixture's name."""
    return pytest.param(name, marks=pytest.mark.real_provider)


@pytest.fixture(scope="session", params=[BUILTIN, real_server("calling_llama_server")])
def real(request: pytest.FixtureRequest) -> RealProvider | None:
    """Return a real server, or None for the builtin backend."""
    if request.param == "builtin":
        return None
    running: RealProvider = request.getfixturevalue(request.param)
    return running


@pytest.fixture
async def serving(
    real: RealProvider | None, request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[Serving]:
    """Serve every capability by one model; the one that sees is the builtin's."""
    needs = ["text", "tool_use", "structured_output"]
    if real is None:
        name, sections = "builtin/tiny", tiny(request.getfixturevalue("tiny_vision_model"))
        needs.append("vision")
    else:
        name = f"real/{real.model}"
        sections = {"providers": {"real": openai_provider(f"{real.url}/v1")}}
    capabilities = {need: [name] for need in needs}
    async with served(tmp_path, **sections, capabilities=capabilities) as router:
        yield Serving(router, sees=real is None)


def tool(name: str = "lamp") -> dict[str, Any]:
    """Return a function whose arguments are a lamp, as chat completions know it."""
    return {
        "type": "function",
        "function": {"name": name, "parameters": Lamp.model_json_schema(), "strict": True},
    }


def red() -> bytes:
    """Return a red picture."""
    data = io.BytesIO()
    Image.new("RGB", (64, 64), COLOURS["red"]).save(data, "PNG")
    return data.getvalue()


async def test_openai_s_sdk_in_chat_completions(serving: Serving) -> None:
    """Whole and streamed, an object, a call and its result, a picture."""
    asked: Any = {"model": "auto", "temperature": 0, "messages": QUESTION}
    async with openai_sdk(serving) as client:
        chat = client.chat.completions
        whole = await chat.create(**asked, max_tokens=8)
        chunks = [chunk async for chunk in await chat.create(**asked, max_tokens=8, stream=True)]
        pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
        assert whole.choices[0].message.content == "".join(pieces) != ""
        assert whole.usage
        assert 0 < whole.usage.completion_tokens <= 8
        parsed = await chat.parse(**asked, max_tokens=ENOUGH, response_format=Lamp)
        assert isinstance(parsed.choices[0].message.parsed, Lamp)
        calling: Any = {**asked, "tools": [tool()], "tool_choice": "required"}
        calling |= {"max_tokens": ENOUGH, "parallel_tool_calls": False}
        async with chat.stream(**calling) as stream:
            called = (await stream.get_final_completion()).choices[0].message
        (call,) = called.tool_calls or []
        Lamp.model_validate_json(call.function.arguments)
        told = [
            *QUESTION,
            called.model_dump(exclude_none=True, include={"role", "content", "tool_calls"}),
            {"role": "tool", "tool_call_id": call.id, "content": "It is lit."},
        ]
        after: Any = {**asked, "messages": told, "tools": [tool()], "tool_choice": "none"}
        answer = await chat.create(**after, max_tokens=8)
        assert answer.choices[0].message.content
        if serving.sees:
            shown = {"type": "image_url", "image_url": {"url": uri_of(red())}}
            asked["messages"] = [
                {"role": "user", "content": [{"type": "text", "text": SEEN}, shown]}
            ]
            seen = await chat.create(**asked, max_tokens=12)
            assert "red" in str(seen.choices[0].message.content)


async def test_openai_s_sdk_in_responses(serving: Serving) -> None:
    """The same in the other protocol, which neither server is asked in."""
    asked: Any = {"model": "auto", "temperature": 0}
    async with openai_sdk(serving) as client:
        responses = client.responses
        short: Any = {**asked, "input": ASK, "max_output_tokens": 16}
        whole = await responses.create(**short)
        *_, last = [event async for event in await responses.create(**short, stream=True)]
        assert whole.output_text == last.response.output_text != ""
        assert whole.usage
        assert 0 < whole.usage.output_tokens <= 16
        long: Any = {**asked, "input": QUESTION, "max_output_tokens": ENOUGH}
        parsed = await responses.parse(**long, text_format=Lamp)
        assert isinstance(parsed.output_parsed, Lamp)
        function = tool()["function"]
        calling: Any = {**long, "tools": [{"type": "function", **function}]}
        calling |= {"parallel_tool_calls": False}
        async with responses.stream(**calling, tool_choice="required") as stream:
            called = await stream.get_final_response()
        (call,) = [item for item in called.output if item.type == "function_call"]
        Lamp.model_validate_json(call.arguments)
        items = [item.model_dump(exclude_none=True) for item in called.output]
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "It is lit."}
        calling |= {"input": [*QUESTION, *items, result], "max_output_tokens": 16}
        answer = await responses.create(**calling, tool_choice="none")
        assert answer.output_text
        if serving.sees:
            parts = [
                {"type": "input_text", "text": SEEN},
                {"type": "input_image", "image_url": uri_of(red()), "detail": "auto"},
            ]
            short["input"] = [{"role": "user", "content": parts}]
            assert "red" in (await responses.create(**short)).output_text


@pytest.mark.parametrize("protocol", [OpenAIChatModel, OpenAIResponsesModel])
async def test_pydantic_ai(
    serving: Serving, protocol: type[OpenAIChatModel | OpenAIResponsesModel]
) -> None:
    """Its three ways to an object, whole and streamed; tools on the way, a picture."""
    async with openai_sdk(serving) as client:
        model = protocol("auto", provider=OpenAIProvider(openai_client=client))
        # The likeliest words: the two runs of each are of the same.
        settings = ModelSettings(temperature=0, max_tokens=ENOUGH, parallel_tool_calls=False)
        outputs: list[Any] = [ToolOutput(Lamp), NativeOutput(Lamp)]
        for output in outputs:
            agent = Agent(model, output_type=output, model_settings=settings, retries=0)
            whole = (await agent.run(ASK)).output
            assert isinstance(whole, Lamp)
            async with agent.run_stream(ASK) as stream:
                assert await stream.get_output() == whole
        assert await prompted(model)
        assert await looking(model, settings)
        if serving.sees:
            agent = Agent(model, model_settings=settings, retries=0)
            shown = BinaryContent(red(), media_type="image/png")
            assert "red" in (await agent.run([SEEN, shown])).output


def drawing(seed: int) -> ModelSettings:
    """Return settings under which a model says nearly anything that it may."""
    # The responses protocol has no seed of its own; what it does not know goes through.
    return ModelSettings(temperature=1.5, max_tokens=ENOUGH, extra_body={"seed": seed})


async def prompted(model: Model) -> bool:
    """Have an agent that asks for any object, whole and streamed; tell whether it got both."""
    agent = Agent(model, output_type=PromptedOutput(Loose), retries=0)
    for seed in range(8):
        settings = drawing(seed)
        try:
            whole = (await agent.run(ASK, model_settings=settings)).output
        except UnexpectedModelBehavior:
            # An object, as far as it came: nobody taught this model to end one.
            continue
        async with agent.run_stream(ASK, model_settings=settings) as stream:
            return await stream.get_output() == whole
    return False


async def looking(model: Model, settings: ModelSettings) -> list[Lamp]:
    """Have an agent that may look once before its one answer of two; return what it looked at."""
    outputs = [ToolOutput(Lamp), ToolOutput(Nothing)]
    agent = Agent(model, output_type=outputs, model_settings=settings, retries=0)
    looks: list[Lamp] = []

    async def while_new(_: RunContext[object], tool: ToolDefinition) -> ToolDefinition | None:
        # A model that was never taught to stop would look on and on.
        return None if looks else tool

    @agent.tool_plain(prepare=while_new)
    def look(lamp: Lamp) -> str:
        """Look at a lamp."""
        looks.append(lamp)
        return "It is a lamp."

    # Which of the two is called first is the model's.
    for seed in range(8):
        answer = await agent.run(ASK, model_settings=drawing(seed))
        assert isinstance(answer.output, Lamp | Nothing)
        if looks:
            break
    return looks


async def test_anthropic_s_sdk(serving: Serving) -> None:
    """Whole, streamed and counted; an object, a call and its result, a picture."""
    asked: Any = {"model": "auto", "messages": QUESTION, "extra_body": {"temperature": 0}}
    async with AsyncAnthropic(
        base_url=f"http://127.0.0.1:{serving.router.port}", api_key="any", max_retries=0
    ) as client:
        messages = client.messages
        whole: Any = await messages.create(max_tokens=8, **asked)
        async with messages.stream(max_tokens=8, **asked) as stream:
            assert await stream.get_final_text() == whole.content[0].text
        counted = await messages.count_tokens(model="auto", messages=QUESTION)
        read = whole.usage.cache_read_input_tokens or 0
        assert counted.input_tokens == whole.usage.input_tokens + read
        parsed = await messages.parse(max_tokens=ENOUGH, output_format=Lamp, **asked)
        assert isinstance(parsed.parsed_output, Lamp)
        lamp = {"name": "lamp", "input_schema": Lamp.model_json_schema()}
        calling: Any = {**asked, "tools": [lamp], "max_tokens": ENOUGH}
        choice: Any = {"type": "any", "disable_parallel_tool_use": True}
        async with messages.stream(**calling, tool_choice=choice) as stream:
            called = await stream.get_final_message()
        assert called.stop_reason == "tool_use"
        (call,) = [block for block in called.content if block.type == "tool_use"]
        Lamp.model_validate(call.input)
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "It is lit."}
        calling["messages"] = [
            *QUESTION,
            {"role": "assistant", "content": [each.model_dump() for each in called.content]},
            {"role": "user", "content": [result]},
        ]
        answer: Any = await messages.create(
            **{**calling, "max_tokens": 8}, tool_choice={"type": "none"}
        )
        assert answer.content[0].text
        if serving.sees:
            data = base64.b64encode(red()).decode()
            source = {"type": "base64", "media_type": "image/png", "data": data}
            parts = [{"type": "text", "text": SEEN}, {"type": "image", "source": source}]
            asked["messages"] = [{"role": "user", "content": parts}]
            seen: Any = await messages.create(max_tokens=12, **asked)
            assert "red" in seen.content[0].text


# It leaves its calls to the model, and what SmolLM2 then makes of one is an error of the server's.
@pytest.mark.parametrize("real", [BUILTIN, real_server("llama_server")], indirect=True)
async def test_the_requests_of_claude_code(serving: Serving) -> None:
    """A turn in the midst of a session, its title, the count of a tool; all else is unchanged."""
    client = serving.router.client
    client.timeout = 110

    async def post(body: dict[str, Any], target: str = claude_code.TARGET) -> httpx2.Response:
        return await client.post(target, json=body, headers=claude_code.HEADERS)

    # Its models have room for all its tools; and as many tokens as it asks for would take long.
    body = claude_code.request()
    tools = [claude_code.tool(name) for name in ("Bash", "Edit", "Read")]
    turn = await post({**body, "tools": tools, "max_tokens": ENOUGH})
    title = await post({**claude_code.title(), "max_tokens": ENOUGH})
    count = await post(claude_code.tokens_of(), claude_code.COUNT_TARGET)
    for answer in (turn, title):
        names = [line[7:] for line in answer.text.splitlines() if line.startswith("event: ")]
        assert names[0] == "message_start", answer.text
        assert names[-2:] == ["message_delta", "message_stop"], answer.text
    assert count.json()["input_tokens"] > 0


def openai_sdk(serving: Serving) -> AsyncOpenAI:
    """Return OpenAI's client of the router."""
    return AsyncOpenAI(base_url=serving.router.url, api_key="any", max_retries=0)
