"""A whole chat completion, put as a message of Anthropic's protocol."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from router.dialects.messages.pieces import Piece, Reader


def message(
    message_id: str, model: str, content: list[dict[str, Any]], **rest: Any
) -> dict[str, Any]:
    """Return a message; `rest` says why it ended and what it cost, if it has ended."""
    return {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": None,
        "stop_sequence": None,
        "stop_details": None,
        **rest,
    }


def thinking_block(thought: str, signature: str) -> dict[str, Any]:
    """Return a block that shows what was thought."""
    return {"type": "thinking", "thinking": thought, "signature": signature}


def tool_use_block(call_id: str, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return a block that is a call of a tool."""
    return {"type": "tool_use", "id": call_id, "name": name, "input": arguments}


def read_arguments(text: str, *, was_cut: bool) -> dict[str, Any]:
    """Return the arguments of a call; none at all are an empty object.

    Those that the answer's length has cut are empty too: they are no arguments yet. ValueError for
    any others that are no JSON object.
    """
    if text.strip() in ("", "null"):
        return {}
    try:
        arguments = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        arguments = None
    if isinstance(arguments, dict):
        return arguments
    if was_cut:
        return {}
    raise ValueError("the arguments of a tool call that are no JSON object")


def content_of(pieces: Iterable[Piece], reader: Reader, signature: str) -> list[dict[str, Any]]:
    """Return the blocks that the pieces of a whole answer make."""
    content: list[dict[str, Any]] = []
    for piece in pieces:
        if piece.kind == "thinking":
            content.append(thinking_block(piece.text, signature))
        elif piece.kind == "text":
            if content and content[-1]["type"] == "text":
                content[-1]["text"] += piece.text
            else:
                content.append({"type": "text", "text": piece.text})
        elif piece.name:
            arguments = read_arguments(piece.text, was_cut=reader.was_cut)
            content.append(tool_use_block(piece.id, piece.name, arguments))
        else:
            raise ValueError("a tool call without a name")
    return content
