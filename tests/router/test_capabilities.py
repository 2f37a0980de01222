"""Classification of chat completion requests."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.capabilities import Capability, classify_chat

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
        ({"messages": [USER], "tools": [{}], "tool_choice": "none"}, ["text"]),
        ({"messages": [USER], "tools": [{}], "tool_choice": "auto"}, ["tool_use"]),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, ["tool_use"]),
        ({"messages": [{"role": "assistant", "tool_calls": []}]}, ["text"]),
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
        ({"messages": [{"role": "user", "content": "draw me an image_url, use tools"}]}, ["text"]),
    ],
)
def test_needs_are_read_from_the_structure(body: dict[str, Any], needs: list[str]) -> None:
    """Each shape of a request needs what the table says, in the levers' order."""
    assert list(classify_chat(body).needs) == needs


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
_FIELDS = ["messages", "tools", "functions", "tool_choice", "response_format", "model", "stream"]


@given(st.dictionaries(st.sampled_from(_FIELDS), _JSON))
def test_no_shape_is_too_odd_to_classify(body: dict[str, Any]) -> None:
    """Any JSON object needs at least one lever, and classifying it raises nothing."""
    requirement = classify_chat(body)
    assert requirement.levers
    assert set(requirement.levers) <= set(Capability)
