"""The shape that a chat must have before LiteLLM gets it."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import Refused
from router.translatable import check_chat
from tests.harness.any_json import any_json

HI = {"role": "user", "content": "hi"}
CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
PARTS = [
    {"type": "text", "text": "a"},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
    {"type": "image_url", "image_url": "https://a.example/a.png"},
    {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
    {"type": "file", "file": {"file_id": "a"}},
    {"type": "file", "file": {"file_id": "gs://bucket/a.pdf"}},
    {"type": "file", "file": {"file_id": "gs://bucket/a", "format": "application/pdf"}},
    {"type": "image_url", "image_url": {"url": "gs://bucket/a", "format": "image/png"}},
    {"type": "another"},
]


def in_a_part(**part: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [part]}]}


def called(**function: Any) -> dict[str, Any]:
    call = {**CALL, "function": {**CALL["function"], **function}}  # type: ignore[dict-item]
    return {"messages": [{"role": "assistant", "content": None, "tool_calls": [call]}]}


def test_a_chat_of_any_kind_passes() -> None:
    """What OpenAI's specification has, and the clouds' own tools."""
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "a"}]},
        {"role": "developer", "content": "a"},
        {"role": "user", "content": PARTS},
        {"role": "assistant", "content": None, "refusal": "no", "tool_calls": None},
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "a"}]},
        {"role": "function", "name": "f", "content": ""},
    ]
    tools = [{"type": "function", "function": {"name": "f"}}, {"type": "web_search_20250305"}]
    schema = {"name": "a", "schema": {}}
    check_chat(
        {
            "messages": messages,
            "tools": tools,
            "tool_choice": {"type": "function", "function": {"name": "f"}},
            "response_format": {"type": "json_schema", "json_schema": schema},
            "temperature": 1,
            "top_p": 0.5,
            "stop": ["a"],
            "max_tokens": 5,
            "reasoning_effort": "low",
        }
    )
    for arguments in ("", " ", '{"a": 1}'):
        check_chat(called(arguments=arguments))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": [HI], "n": True}, "n"),
        ({"messages": [HI], "temperature": "1"}, "temperature"),
        ({"messages": [HI], "stop": 1}, "stop"),
        ({"messages": [HI], "tools": {}}, "tools"),
        ({"messages": [HI], "tools": [{"function": {"name": "f"}}]}, "tools[0].type"),
        (
            {
                "messages": [HI],
                "tools": [{"type": "function", "function": {"name": "f", "parameters": "a"}}],
            },
            "tools[0].function.parameters",
        ),
        ({"messages": [{"role": "nobody", "content": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "assistant", "content": 1}]}, "messages[0].content"),
        (
            in_a_part(type="image_url", image_url={"url": "a.png"}),
            "messages[0].content[0].image_url.url",
        ),
        (in_a_part(type="image_url", image_url="data:a"), "messages[0].content[0].image_url"),
        (in_a_part(type="image_url"), "messages[0].content[0].image_url"),
        (in_a_part(type="text"), "messages[0].content[0].text"),
        (called(arguments="["), "messages[0].tool_calls[0].function.arguments"),
        (called(arguments="[]"), "messages[0].tool_calls[0].function.arguments"),
        (called(arguments="[" * 9999), "messages[0].tool_calls[0].function.arguments"),
        (called(name=None), "messages[0].tool_calls[0].function.name"),
    ],
)
def test_what_has_another_shape_is_refused_by_its_place(fields: dict[str, Any], param: str) -> None:
    """And no word of it is repeated."""
    with pytest.raises(Refused) as refused:
        check_chat(fields)
    assert (refused.value.code, refused.value.param) == ("invalid_request", param)


_JSON = any_json(
    ["role", "content", "type", "file", "tool_calls", "function", "image_url", "json_schema"],
    ["user", "tool", "text", "file", "image_url", "function", "json_schema"],
)


@given(st.lists(_JSON, max_size=2), _JSON, _JSON)
def test_nothing_breaks_it(messages: list[Any], tools: Any, form: Any) -> None:
    """It passes, or is refused: never anything else."""
    for fields in ({"messages": messages}, {"messages": [HI], "tools": tools}):
        with suppress(Refused):
            check_chat({**fields, "response_format": form})
            check_chat(fields)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        (in_a_part(type="file", file={"file_id": "gs://b/a"}), "content[0].file.file_id"),
        (in_a_part(type="file", file={"file_data": "gs://b.c/a."}), "content[0].file.file_data"),
        (in_a_part(type="image_url", image_url="gs://b/a"), "content[0].image_url"),
        (in_a_part(type="image_url", image_url={"url": "gs://b/a"}), "content[0].image_url.url"),
        (
            {
                "messages": [
                    {"role": "assistant", "content": "a", "images": [{"image_url": "gs://b/a"}]}
                ]
            },
            "images[0].image_url",
        ),
    ],
)
def test_what_litellm_would_ask_google_about_is_refused(fields: dict[str, Any], param: str) -> None:
    """It asks by itself, past the provider's own upstream, of which type a thing is."""
    with pytest.raises(Refused) as caught:
        check_chat(fields)
    assert (caught.value.code, caught.value.param) == (
        "unsupported_parameter",
        f"messages[0].{param}",
    )
