"""Classification of chat completion requests."""

from typing import Any

import pytest

from router.classification.chat import needs_of_chat
from tests.router.classification.shapes import needs_in_order

USER = {"role": "user", "content": "hello"}


def _parts(*kinds: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": kind} for kind in kinds]}]}


@pytest.mark.parametrize(
    ("body", "needs"),
    [
        ({"messages": [USER]}, ["text"]),
        ({}, ["text"]),
        (_parts("text"), ["text"]),
        (_parts("text", "image_url"), ["vision"]),
        (_parts("image"), ["vision"]),
        (_parts("input_image"), ["vision"]),
        (
            {"messages": [USER, {"role": "tool", "content": [{"type": "image_url"}]}]},
            ["vision", "tool_use"],
        ),
        ({"messages": [USER], "tools": [{"type": "function"}]}, ["tool_use"]),
        ({"messages": [USER], "functions": [{"name": "f"}]}, ["tool_use"]),
        ({"messages": [USER], "tools": []}, ["text"]),
        ({"messages": [USER], "tools": "all"}, ["text"]),
        ({"messages": [USER], "tools": [{}], "tool_choice": "none"}, ["text"]),
        ({"messages": [USER], "tools": [{}], "tool_choice": "auto"}, ["tool_use"]),
        ({"messages": [USER], "tools": [{}], "tool_choice": {"type": "x"}}, ["tool_use"]),
        ({"messages": [USER], "functions": [{}], "function_call": "none"}, ["text"]),
        ({"messages": [USER], "functions": [{}], "tool_choice": "none"}, ["text"]),
        ({"messages": [USER], "tools": [{}], "function_call": "none"}, ["tool_use"]),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, ["tool_use"]),
        ({"messages": [{"role": "assistant", "tool_calls": []}]}, ["text"]),
        ({"messages": [{"role": "assistant", "tool_calls": {"a": 1}}]}, ["text"]),
        ({"messages": [{"role": "assistant", "function_call": {"name": "f"}}]}, ["tool_use"]),
        ({"messages": [{"role": "assistant", "function_call": None}]}, ["text"]),
        ({"messages": [{"role": "function", "content": "4"}]}, ["tool_use"]),
        ({"messages": [{"role": ["tool"], "content": "4"}]}, ["text"]),
        ({"messages": [USER], "response_format": {"type": "json_schema"}}, ["structured_output"]),
        ({"messages": [USER], "response_format": {"type": "json_object"}}, ["structured_output"]),
        ({"messages": [USER], "response_format": {"type": "text"}}, ["text"]),
        (
            {**_parts("image_url"), "tools": [{}], "response_format": {"type": "json_schema"}},
            ["vision", "tool_use", "structured_output"],
        ),
        ({"messages": [USER], "response_format": {"type": ["json_schema"]}}, ["text"]),
        ({"messages": [{"role": "user", "content": [{"type": {}}, {"type": []}]}]}, ["text"]),
        (_parts("input_audio"), ["text", "audio"]),
        (_parts("file", "video_url"), ["text", "file", "video"]),
        (_parts("image_url", "input_audio"), ["vision", "audio"]),
        (_parts("audio_url"), ["text", "audio"]),
        (_parts("audio", "video", "input_file"), ["text", "audio", "file", "video"]),
        (_parts("input_video"), ["text", "video"]),
        ({"messages": [{"content": [{"text": "x", "image_url": {"url": "data:"}}]}]}, ["vision"]),
        ({"messages": [{"content": [{"type": None, "audio_url": {}}]}]}, ["text", "audio"]),
        ({"messages": [{"content": [{"type": "text", "image_url": {}}]}]}, ["text"]),
        ({"messages": [{"content": [{"text": "x"}]}]}, ["text"]),
        ({"messages": [{"role": "user", "content": "draw me an image_url, use tools"}]}, ["text"]),
    ],
)
def test_needs_are_read_from_the_structure(body: dict[str, Any], needs: list[str]) -> None:
    """Each shape of a request needs what the table says, in the levers' order."""
    assert needs_in_order(needs_of_chat(body)) == needs


def test_each_picture_is_counted() -> None:
    """The limit on pictures is one on all messages together."""
    body = {"messages": [*_parts("image_url", "image")["messages"], *_parts("image")["messages"]]}
    assert needs_of_chat(body).images == 3
