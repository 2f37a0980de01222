"""How long a prompt is at the very least."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.endpoints import ENDPOINTS
from tests.router.classification.shapes import BODIES

PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1000}}


def characters(path: str, body: Any) -> int:
    """Return what is counted of a request."""
    count = ENDPOINTS[path].characters
    return 0 if count is None else count(body)


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/v1/chat/completions", {"messages": [{"content": "12345"}, {"content": "678"}]}, 8),
        (
            "/v1/chat/completions",
            {"messages": [{"content": [{"type": "text", "text": "123"}, PICTURE]}]},
            3,
        ),
        ("/v1/chat/completions", {"messages": [{"role": "tool", "content": "12"}]}, 2),
        ("/v1/chat/completions", {"messages": [{"content": "<think>1234</think>56"}]}, 2),
        ("/v1/chat/completions", {"messages": [{"content": "a" + " " * 41 + "=" * 80}]}, 2),
        ("/v1/chat/completions", {"messages": "123", "tools": [{"name": "123"}]}, 0),
        ("/v1/completions", {"prompt": "1234"}, 4),
        ("/v1/completions", {"prompt": ["12", "1234", "123"]}, 4),
        ("/v1/completions", {"prompt": [1, 2, 3]}, 0),
        ("/v1/completions", {"prompt": []}, 0),
        ("/v1/responses", {"input": "1234", "instructions": "56"}, 6),
        (
            "/v1/responses",
            {"input": [{"content": [{"type": "input_text", "text": "12"}]}, {"output": "345"}]},
            5,
        ),
        ("/v1/responses", {"input": "1234", "truncation": "auto"}, 0),
        ("/v1/messages", {"system": "12", "messages": [{"content": "345"}]}, 5),
        ("/v1/messages", {"system": [{"text": "12"}], "messages": []}, 2),
        (
            "/v1/messages",
            {
                "messages": [
                    {
                        "content": [
                            {"type": "tool_result", "content": "12"},
                            {"type": "tool_result", "content": [{"type": "text", "text": "345"}]},
                        ]
                    }
                ]
            },
            5,
        ),
        ("/v1/messages", {"messages": [{"content": "1"}], "context_management": {"edits": []}}, 0),
        ("/v1/messages/count_tokens", {"messages": [{"content": "345"}]}, 0),
        ("/v1/embeddings", {"input": "1234"}, 0),
    ],
)
def test_text_counts_and_nothing_else(path: str, body: Any, expected: int) -> None:
    """What may be left out, folded into one token, or is no text counts nothing."""
    assert characters(path, body) == expected


@given(path=st.sampled_from(sorted(ENDPOINTS)), body=BODIES)
def test_any_body_has_a_length_and_never_more_than_its_bytes(path: str, body: Any) -> None:
    """No shape is an error, and comparing the bytes is enough to know that a prompt fits."""
    assert 0 <= characters(path, body) <= len(json.dumps(body))
