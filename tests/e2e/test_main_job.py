"""The main job: the SDKs and agents that people use get real answers from real models."""

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI, NotFoundError, OpenAI
from PIL import Image
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from tests.harness.colours import COLOURS
from tests.harness.served import Served, served, tiny

CAPITAL = "What is the capital of France?"


@pytest.fixture
async def smol(tmp_path: Path, smollm2_model: Path) -> AsyncIterator[Served]:
    """Serve SmolLM2 as a first run does, from the data folder's models."""
    models = tmp_path / "data" / "models"
    models.mkdir(parents=True)
    (models / "smollm2-135m").symlink_to(smollm2_model, target_is_directory=True)
    settings = tiny(smollm2_model)
    async with served(
        tmp_path,
        providers=settings["providers"],
        capabilities={"text": ["builtin/smollm2-135m"]},
    ) as router:
        yield router


async def test_every_client_hears_paris(smol: Served) -> None:
    """The openai SDK (async, streaming, sync) and a PydanticAI agent get its answer."""
    question = [{"role": "user", "content": CAPITAL}]
    asked = {"messages": question, "temperature": 0, "max_tokens": 12}
    async with AsyncOpenAI(base_url=smol.url, api_key="unused") as client:
        whole = await client.chat.completions.create(model="text", **asked)  # type: ignore[call-overload]
        stream = await client.chat.completions.create(model="auto", stream=True, **asked)  # type: ignore[call-overload]
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "Paris" in whole.choices[0].message.content
    assert "".join(pieces) == whole.choices[0].message.content
    assert whole.usage.completion_tokens > 0
    assert len([piece for piece in pieces if piece]) > 3

    def ask() -> str | None:
        with OpenAI(base_url=smol.url, api_key="unused") as client:
            answer = client.chat.completions.create(model="smollm2-135m", **asked)  # type: ignore[call-overload]
        return str(answer.choices[0].message.content)

    assert "Paris" in str(await asyncio.to_thread(ask))
    async with AsyncOpenAI(base_url=smol.url, api_key="unused") as client:
        model = OpenAIChatModel("text", provider=OpenAIProvider(openai_client=client))
        agent = Agent(model, model_settings={"temperature": 0, "max_tokens": 12})
        assert "Paris" in (await agent.run(CAPITAL)).output


def _picture(colour: str) -> str:
    data = io.BytesIO()
    Image.new("RGB", (64, 64), COLOURS[colour]).save(data, "PNG")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


async def test_pixels_cross_both_processes_and_change_the_answer(
    tmp_path: Path, tiny_vision_model: Path
) -> None:
    """The same question about another picture gets another answer, the right one."""
    async with (
        served(
            tmp_path, **tiny(tiny_vision_model), capabilities={"vision": ["builtin/tiny"]}
        ) as router,
        AsyncOpenAI(base_url=router.url, api_key="unused") as client,
    ):
        for colour in ("red", "blue", "green"):
            answer = await client.chat.completions.create(
                model="auto",
                temperature=0,
                max_tokens=8,
                messages=[
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": "What colour is this?"},
                            {"type": "image_url", "image_url": {"url": _picture(colour)}},
                        ],
                    }
                ],
            )
            assert colour in str(answer.choices[0].message.content).lower()
        with pytest.raises(NotFoundError) as unbound:
            await client.chat.completions.create(
                model="auto", messages=[{"role": "user", "content": "hello"}]
            )
        assert unbound.value.code == "capability_not_assigned"


async def test_tools_and_schemas_cross_both_processes(
    tmp_path: Path, tiny_vision_model: Path
) -> None:
    """What a request needs chooses the capability, and the answer is held to it."""
    async with (
        served(
            tmp_path,
            **tiny(tiny_vision_model),
            capabilities={"tool_use": ["builtin/tiny"], "structured_output": ["builtin/tiny"]},
        ) as router,
        AsyncOpenAI(base_url=router.url, api_key="unused") as client,
    ):
        schema: Any = {
            "type": "object",
            "properties": {"on": {"type": "boolean"}},
            "required": ["on"],
        }
        schema["additionalProperties"] = False
        asked: Any = {"model": "auto", "messages": [{"role": "user", "content": "hi"}]}
        asked |= {"temperature": 1.5, "max_tokens": 200}
        called: Any = await client.chat.completions.create(
            **asked,
            tools=[{"type": "function", "function": {"name": "f", "parameters": schema}}],
            tool_choice="required",
            parallel_tool_calls=False,
        )
        (call,) = called.choices[0].message.tool_calls
        assert isinstance(json.loads(call.function.arguments)["on"], bool)
        told: Any = await client.chat.completions.create(
            **asked,
            response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": schema}},
        )
        assert isinstance(json.loads(told.choices[0].message.content)["on"], bool)
