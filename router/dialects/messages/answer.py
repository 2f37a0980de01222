"""A whole chat completion, put as a message of Anthropic's protocol."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from router.dialects.calls import Called
from router.dialects.pieces import Piece, Reader
from router.dialects.shapes import invalid
from router.dialects.tokens import Tokens

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal"]


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


def arguments_of(text: str) -> dict[str, Any] | None:
    """Return the arguments of a call, none at all as an empty object; None for no JSON object."""
    if text.strip() in ("", "null"):
        return {}
    try:
        arguments = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return None
    return arguments if isinstance(arguments, dict) else None


def read_arguments(text: str, *, was_cut: bool) -> dict[str, Any]:
    """Return the arguments of a call; StreamFailed for what is no JSON object.

    Those that the answer's length has cut are empty: they are no arguments yet.
    """
    arguments = arguments_of(text)
    if arguments is None and not was_cut:
        raise invalid("the arguments of a tool call that are no JSON object")
    return arguments or {}


def content_of(pieces: Iterable[Piece], signature: str, *, was_cut: bool) -> list[dict[str, Any]]:
    """Return the blocks that the pieces of a whole answer make."""
    content: list[dict[str, Any]] = []
    for piece in pieces:
        if isinstance(piece, Called):
            arguments = read_arguments(piece.text, was_cut=was_cut)
            content.append(tool_use_block(piece.call.id, piece.call.name, arguments))
        elif piece.kind == "thinking":
            content.append(thinking_block(piece.text, signature))
        elif content and content[-1]["type"] == "text":
            content[-1]["text"] += piece.text
        else:
            content.append({"type": "text", "text": piece.text})
    return content


def stop_of(reader: Reader, sequences: Sequence[str]) -> tuple[StopReason, str | None]:
    """Return why an answer ended, and at which of `sequences` where the server tells."""
    if reader.was_cut:
        return "max_tokens", None
    if reader.refused or reader.finish == "content_filter":
        return "refusal", None
    # Several servers say `stop` although there are calls.
    if reader.called:
        return "tool_use", None
    if reader.stopped_by in sequences:
        return "stop_sequence", reader.stopped_by
    return "end_turn", None


def usage_told(tokens: Tokens | None) -> dict[str, Any]:
    """Return the tokens in Anthropic's words: what was known of the prompt counts apart.

    The protocol has numbers here in any case.
    """
    told = tokens or Tokens(0, 0, None, None, None)
    usage: dict[str, Any] = {
        "input_tokens": max(0, told.prompt - (told.cached or 0)),
        "output_tokens": told.completion,
        "cache_creation_input_tokens": None,
        "cache_read_input_tokens": told.cached,
    }
    if told.thought is not None:
        usage["output_tokens_details"] = {"thinking_tokens": told.thought}
    return usage
