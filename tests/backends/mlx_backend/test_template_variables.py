"""What a request may tell the chat template."""

import inspect
from pathlib import Path
from typing import Any

import httpx2
import pytest

from backends.mlx_backend.template_variables import RESERVED
from backends.wire import Priority
from tests.backends.mlx_backend.mixed import CHAT, CONVERSATIONS
from tests.backends.mlx_backend.pictures import RED, data_uri, encoded, question
from tests.backends.mlx_backend.requests import body, chat, refuses

_FIELD = "chat_template_kwargs"
_NOWHERE = Path()


@pytest.mark.parametrize(
    ("fields", "variables"),
    [
        ({}, {}),
        ({_FIELD: None, "enable_thinking": None, "reasoning_effort": None}, {}),
        ({"enable_thinking": True}, {"enable_thinking": True}),
        ({"reasoning_effort": "high"}, {"reasoning_effort": "high", "enable_thinking": True}),
        ({"reasoning_effort": "none"}, {"reasoning_effort": "none", "enable_thinking": False}),
        (
            {"reasoning_effort": "minimal"},
            {"reasoning_effort": "minimal", "enable_thinking": False},
        ),
        (
            {"reasoning_effort": "none", "enable_thinking": True},
            {"reasoning_effort": "none", "enable_thinking": True},
        ),
        (
            {"enable_thinking": True, _FIELD: {"enable_thinking": False, "budget": 7}},
            {"enable_thinking": False, "budget": 7},
        ),
        (
            {_FIELD: {"a": "x" * 256, "b": 0.5, "c": None, "d": 2**63 - 1}},
            {"a": "x" * 256, "b": 0.5, "c": None, "d": 2**63 - 1},
        ),
    ],
)
def test_what_the_template_is_told(fields: dict[str, Any], variables: dict[str, Any]) -> None:
    """Fields become variables; what is named for the template itself wins."""
    request = chat(**fields)
    assert request.variables == variables
    generations = request.generations(_NOWHERE, Priority.LOW)
    assert [each.variables for each in generations] == [variables]


@pytest.mark.parametrize(
    "value", [[], {}, ["x"], {"x": 1}, "x" * 257, 2**63, -(2**63), 1e300], ids=repr
)
def test_a_value_that_is_no_scalar_or_too_large(value: Any) -> None:
    """It is refused, and named."""
    refuses(body(**{_FIELD: {"mood": value}}), "invalid_request", f"{_FIELD}.mood")


@pytest.mark.parametrize("name", ["", "_x", "a b", "a.b", "a-b", "ä", "x" * 65, "__class__"])
def test_what_is_no_name(name: str) -> None:
    """No template could ask for it."""
    refuses(body(**{_FIELD: {name: 1}}), "invalid_request", _FIELD)


def test_fields_of_another_type() -> None:
    """They are refused like every other field."""
    refuses(body(**{_FIELD: {f"x{at}": 1 for at in range(33)}}), "invalid_request", _FIELD)
    refuses(body(**{_FIELD: []}), "invalid_request", _FIELD)
    refuses(body(enable_thinking="yes"), "invalid_request", "enable_thinking")
    refuses(body(reasoning_effort="x" * 33), "invalid_request", "reasoning_effort")
    refuses(body(reasoning_effort=3), "invalid_request", "reasoning_effort")


@pytest.mark.parametrize(
    "name",
    [
        "chat_template",
        "tokenize",
        "return_messages",
        "num_images",
        "add_generation_prompt",
        "tools",
        "continue_final_message",
        "messages",
        "bos_token",
        "image_token",
        "raise_exception",
    ],
)
def test_a_name_that_is_not_the_templates(name: str) -> None:
    """What would change how the template is applied is refused by name."""
    message = refuses(body(**{_FIELD: {name: "x"}}), "invalid_request", f"{_FIELD}.{name}")
    assert name in message


@pytest.mark.mlx
def test_no_parameter_on_the_way_to_the_template_is_free() -> None:
    """Whatever these libraries call their parameters is reserved, in later versions too."""
    prompts = pytest.importorskip("mlx_vlm.prompt_utils", reason="MLX has no wheels here")
    from transformers import ProcessorMixin  # noqa: PLC0415 loads slowly
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase  # noqa: PLC0415 too
    from transformers.utils.chat_template_utils import render_jinja_template  # noqa: PLC0415 too

    way = (
        prompts.apply_chat_template,
        prompts.get_chat_template,
        prompts.get_message_json,
        prompts.MessageFormatter.format_message,
        ProcessorMixin.apply_chat_template,
        PreTrainedTokenizerBase.apply_chat_template,
        render_jinja_template,
    )
    names = {name for function in way for name in inspect.signature(function).parameters}
    assert {name for name in names if name not in RESERVED and not name.endswith("_token")} == set()


async def answer(http: httpx2.AsyncClient, **fields: Any) -> Any:
    """Return what a model with such a template answers: its message, and the usage."""
    request = {
        "model": "thinking",
        "messages": CONVERSATIONS["long"],
        "max_tokens": 6,
        "temperature": 0,
        **fields,
    }
    response = (await http.post(CHAT, json=request)).json()
    return response["choices"][0]["message"], response["usage"]


@pytest.mark.mlx
async def test_a_template_that_knows_of_thinking(http: httpx2.AsyncClient) -> None:
    """It thinks where that is asked for, in whichever way, and what it thinks is told apart."""
    for silent in ({}, {"reasoning_effort": "none"}, {_FIELD: {"unknown_to_it": 1}}):
        message, quiet = await answer(http, **silent)
        assert message["content"]
        assert "reasoning_content" not in message
        unthinking = message
    for fields in (
        {"enable_thinking": True},
        {"reasoning_effort": "low"},
        {_FIELD: {"enable_thinking": True}},
    ):
        message, usage = await answer(http, **fields)
        assert message["reasoning_content"]
        assert not message["content"]
        assert usage["prompt_tokens"] > quiet["prompt_tokens"]
        # What both prompts begin with is known from the other, what they do not is not.
        assert usage["prompt_tokens_details"]["cached_tokens"] > 0
    again, _ = await answer(http)
    assert again == unthinking


@pytest.mark.mlx
async def test_a_variable_that_spells_a_picture(http: httpx2.AsyncClient) -> None:
    """What the template shows of it would take the place of the picture that was sent."""
    shown = {"enable_thinking": True, "mood": "<|image_pad|>"}
    messages = question("colour?", data_uri(encoded(RED)))
    request = {"model": "thinking", "messages": messages, _FIELD: shown}
    refusal = await http.post(CHAT, json=request)
    assert refusal.status_code == 400
    assert refusal.json()["error"]["code"] == "invalid_request"
    assert "<|image_pad|>" in refusal.json()["error"]["message"]
