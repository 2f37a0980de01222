"""Classification of requests of Anthropic's messages protocol."""

from typing import Any

import pytest

from router.classification.messages import needs_of_messages
from tests.router.classification.shapes import needs_in_order

USER = {"role": "user", "content": "hello"}
PICTURE = {"type": "image", "source": {"type": "base64", "data": ""}}


def _blocks(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(blocks)}]}


@pytest.mark.parametrize(
    ("body", "needs"),
    [
        ({}, ["text"]),
        ({"messages": [USER]}, ["text"]),
        (_blocks({"type": "text", "text": "an image"}), ["text"]),
        (_blocks(PICTURE), ["vision"]),
        (_blocks({"type": "tool_result", "content": [PICTURE]}), ["vision", "tool_use"]),
        (
            _blocks({"type": "document", "source": {"type": "content", "content": [PICTURE]}}),
            ["vision"],
        ),
        (_blocks({"type": "document"}), ["text", "file"]),
        (_blocks({"type": "document", "source": {"type": "base64"}}), ["text", "file"]),
        (_blocks({"type": "document", "source": {"type": "text", "data": "Once."}}), ["text"]),
        (_blocks({"type": "tool_use", "input": {}}), ["tool_use"]),
        (_blocks({"type": "tool_use", "input": {"type": "image"}}), ["tool_use"]),
        ({"messages": [USER], "tools": [{"name": "f"}]}, ["tool_use"]),
        ({"messages": [USER], "tools": [{}], "tool_choice": {"type": "none"}}, ["text"]),
        ({"messages": [USER], "tools": [{}], "tool_choice": {"type": "any"}}, ["tool_use"]),
        ({"messages": [USER], "tools": []}, ["text"]),
        (
            {"messages": [USER], "output_config": {"format": {"type": "json_schema"}}},
            ["structured_output"],
        ),
        ({"messages": [USER], "output_config": {"effort": "low"}}, ["text"]),
        ({"messages": [USER], "output_format": {"type": "json_schema"}}, ["structured_output"]),
        ({"messages": [USER], "output_format": "json_schema"}, ["text"]),
        (_blocks({"type": {"image": 1}}), ["text"]),
    ],
)
def test_needs_are_read_from_the_structure(body: dict[str, Any], needs: list[str]) -> None:
    """Each shape of a request needs what the table says, in the levers' order."""
    assert needs_in_order(needs_of_messages(body)) == needs


def test_each_picture_is_counted() -> None:
    """Wherever it stands, but not among a tool's arguments."""
    body = _blocks(PICTURE, {"type": "tool_result", "content": [PICTURE]})
    body["messages"].append(_blocks({"type": "tool_use", "input": PICTURE})["messages"][0])
    assert needs_of_messages(body).images == 2
