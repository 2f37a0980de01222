"""Request bodies, and what becomes of them."""

import json
from typing import Any

import pytest

from backends.mlx_backend.errors import ChatError
from backends.mlx_backend.protocol import ChatRequest, parse_chat

HELLO = [{"role": "user", "content": "hello"}]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}


def body(**fields: Any) -> bytes:
    """Return a request body."""
    return json.dumps({"model": "m", "messages": HELLO, **fields}).encode()


def chat(**fields: Any) -> ChatRequest:
    """Return what a request with these fields is read as."""
    return parse_chat(body(**fields))


def parts(*content: Any, role: str = "user") -> bytes:
    """Return a request with one message of these parts."""
    return body(messages=[{"role": role, "content": list(content)}])


def tool(name: str = "weather", **fields: Any) -> dict[str, Any]:
    """Return a tool as a request has it."""
    function = {"name": name, "description": "d", "parameters": PARAMETERS, **fields}
    return {"type": "function", "function": function}


def named(name: str) -> dict[str, Any]:
    """Return the choice of one function."""
    return {"type": "function", "function": {"name": name}}


def call(call_id: str = "c1", name: str = "weather", arguments: str = "{}") -> dict[str, Any]:
    """Return a call as an assistant message has it."""
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def refuses(raw: bytes, code: str, param: str | None) -> str:
    """Check that a request is refused for that reason; returns the text."""
    with pytest.raises(ChatError) as refusal:
        parse_chat(raw)
    assert (refusal.value.code, refusal.value.param) == (code, param), refusal.value.message
    assert refusal.value.status == 400
    return refusal.value.message
