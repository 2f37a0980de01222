"""Classification of requests of OpenAI's responses protocol."""

from typing import Any

import pytest

from router.classification.responses import needs_of_responses
from tests.router.classification.shapes import needs_in_order

USER = {"role": "user", "content": "hello"}
PICTURE = {"type": "input_image", "image_url": "data:,"}


def _input(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"input": [{"role": "user", "content": list(parts)}]}


@pytest.mark.parametrize(
    ("body", "needs"),
    [
        ({}, ["text"]),
        ({"input": "show me an input_image"}, ["text"]),
        ({"input": [USER]}, ["text"]),
        (_input({"type": "input_text", "text": "hi"}), ["text"]),
        (_input(PICTURE), ["vision"]),
        ({"input": [PICTURE]}, ["vision"]),
        (
            {"input": [{"type": "function_call_output", "call_id": "1", "output": [PICTURE]}]},
            ["vision", "tool_use"],
        ),
        (
            {
                "input": [
                    {"type": "computer_call_output", "output": {"type": "computer_screenshot"}}
                ]
            },
            ["vision", "tool_use"],
        ),
        ({"input": [{"type": "function_call", "name": "f"}]}, ["tool_use"]),
        ({"input": [{"type": "custom_tool_call_output"}]}, ["tool_use"]),
        ({"input": [{"type": "item_reference"}]}, ["text"]),
        ({"input": "x", "tools": [{"type": "web_search"}]}, ["tool_use"]),
        ({"input": "x", "tools": []}, ["text"]),
        ({"input": "x", "tools": [{}], "tool_choice": "none"}, ["text"]),
        ({"input": "x", "text": {"format": {"type": "json_schema"}}}, ["structured_output"]),
        ({"input": "x", "text": {"format": {"type": "json_object"}}}, ["structured_output"]),
        ({"input": "x", "text": {"format": {"type": "text"}}}, ["text"]),
        ({"input": "x", "text": {"format": "json_schema"}}, ["text"]),
        (_input({"type": "input_audio"}), ["text", "audio"]),
        (_input({"type": "input_file"}), ["text", "file"]),
        ({"input": [{"type": ["input_image"]}]}, ["text"]),
    ],
)
def test_needs_are_read_from_the_structure(body: dict[str, Any], needs: list[str]) -> None:
    """Each shape of a request needs what the table says, in the levers' order."""
    assert needs_in_order(needs_of_responses(body)) == needs


def test_each_picture_is_counted() -> None:
    """Wherever it stands."""
    assert needs_of_responses({"input": [PICTURE, *_input(PICTURE, PICTURE)["input"]]}).images == 3
