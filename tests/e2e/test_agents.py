"""PydanticAI's agents have validated answers from models that were never taught to give them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Literal

import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel, Field
from pydantic_ai import Agent, NativeOutput, RunContext, ToolOutput
from pydantic_ai.models import Model
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import ToolDefinition

from tests.harness.served import free_port, served

pytestmark = pytest.mark.mlx

ASK = "Which lamp is it?"
LOOKS = 2


def drawing(seed: int) -> ModelSettings:
    """Return settings under which a model says nearly anything that it may."""
    # The responses protocol has no seed of its own; what it does not know goes through.
    return ModelSettings(temperature=1.5, max_tokens=400, extra_body={"seed": seed})


class Lamp(BaseModel):
    """A lamp; every field has few values, so that any model comes to an end."""

    lit: bool
    colour: Literal["red", "blue"]
    watts: Annotated[int, Field(ge=0, le=9)]


class Nothing(BaseModel):
    """No lamp."""

    reason: Literal["dark", "broken"]


# The backend speaks chat completions; responses are translated.
PROTOCOLS = (OpenAIChatModel, OpenAIResponsesModel)
Protocol = type[OpenAIChatModel] | type[OpenAIResponsesModel]


@asynccontextmanager
async def serving(
    folder: Path, model: Path, protocol: Protocol = OpenAIChatModel
) -> AsyncIterator[Model]:
    """Serve a model for all that agents need; return it as PydanticAI knows models."""
    name = "builtin/it"
    needs = ("text", "tool_use", "structured_output")
    async with (
        served(
            folder,
            providers={"builtin": {"kind": "builtin", "port": free_port()}},
            models={name: {"path": str(model)}},
            capabilities={need: [name] for need in needs},
        ) as router,
        AsyncOpenAI(base_url=router.url, api_key="unused", max_retries=0) as client,
    ):
        yield protocol("auto", provider=OpenAIProvider(openai_client=client))


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_an_output_by_a_tool(
    tmp_path: Path, tiny_vision_model: Path, protocol: Protocol
) -> None:
    """The only way to answer is a call, and its arguments are an object that is validated."""
    async with serving(tmp_path, tiny_vision_model, protocol) as model:
        agent = Agent(model, output_type=ToolOutput(Lamp), retries=0)
        for seed in range(3):
            settings = drawing(seed)
            answer = await agent.run(ASK, model_settings=settings)
            assert isinstance(answer.output, Lamp)
            assert answer.usage.requests == 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_one_of_several_outputs_after_tools(
    tmp_path: Path, tiny_vision_model: Path, protocol: Protocol
) -> None:
    """Tools of the agent are called on the way, and it ends in one of the outputs."""
    async with serving(tmp_path, tiny_vision_model, protocol) as model:
        looks: list[bool] = []
        agent = Agent(model, output_type=[ToolOutput(Lamp), ToolOutput(Nothing)], retries=0)

        async def while_new(
            _context: RunContext[object], tool: ToolDefinition
        ) -> ToolDefinition | None:
            # A model that was never taught to stop would look on and on.
            return tool if len(looks) < LOOKS else None

        @agent.tool_plain(prepare=while_new)
        def look(*, close: bool) -> str:
            """Look at the lamp."""
            looks.append(close)
            return "It is a lamp."

        outputs = set()
        looked = 0
        for seed in range(4):
            looks.clear()
            settings = ModelSettings(parallel_tool_calls=False, **drawing(seed))
            answer = await agent.run(ASK, model_settings=settings)
            outputs.add(type(answer.output))
            looked += len(looks)
        assert outputs <= {Lamp, Nothing}
        assert looked


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_native_output(tmp_path: Path, tiny_vision_model: Path, protocol: Protocol) -> None:
    """The text itself is the object, whole or streamed."""
    async with serving(tmp_path, tiny_vision_model, protocol) as model:
        agent = Agent(model, output_type=NativeOutput(Lamp), retries=0)
        for seed in range(3):
            settings = drawing(seed)
            answer = await agent.run(ASK, model_settings=settings)
            assert isinstance(answer.output, Lamp)
            async with agent.run_stream(ASK, model_settings=settings) as stream:
                assert await stream.get_output() == answer.output


async def test_a_real_model_answers_in_both_ways(tmp_path: Path, smollm2_model: Path) -> None:
    """SmolLM2 was taught neither tools nor schemas."""
    async with serving(tmp_path, smollm2_model) as model:
        settings = ModelSettings(temperature=0, max_tokens=60)
        for output in (ToolOutput(Nothing), NativeOutput(Nothing)):
            agent = Agent(model, output_type=output, retries=0)
            answer = await agent.run(ASK, model_settings=settings)
            assert isinstance(answer.output, Nothing)
