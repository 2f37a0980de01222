"""What a client makes of a stream of Anthropic's protocol, by the published order of its events."""

import json
from typing import Any

from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import RawMessageStreamEvent
from pydantic import TypeAdapter

_EVENTS: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
_FIELDS = {
    "text": ("text_delta", "text"),
    "thinking": ("thinking_delta", "thinking"),
    "tool_use": ("input_json_delta", "partial_json"),
}


def events_of(stream: bytes) -> list[dict[str, Any]]:
    """Return the events of a stream, each named by its type."""
    events = []
    for frame in stream.decode().split("\n\n")[:-1]:
        name, data = frame.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    return events


def accumulated(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the message that a stream tells; its blocks come one after the other."""
    begun, *others, delta, stop = events
    assert (begun["type"], stop) == ("message_start", {"type": "message_stop"})
    message: dict[str, Any] = begun["message"]
    assert message["content"] == []
    assert message["stop_reason"] is None
    content = message["content"]
    while others:
        first, *others = others
        assert (first["type"], first["index"]) == ("content_block_start", len(content))
        pieces = []
        while others[0]["type"] == "content_block_delta":
            assert others[0]["index"] == len(content)
            pieces.append(others.pop(0)["delta"])
        assert others.pop(0) == {"type": "content_block_stop", "index": len(content)}
        was_cut = delta["delta"]["stop_reason"] == "max_tokens"
        content.append(_block(first["content_block"], pieces, was_cut=was_cut))
    assert delta["type"] == "message_delta"
    return {**message, **delta["delta"], "usage": {**message["usage"], **delta["usage"]}}


def _block(block: dict[str, Any], pieces: list[dict[str, Any]], *, was_cut: bool) -> dict[str, Any]:
    kind, field = _FIELDS[block["type"]]
    if block["type"] == "thinking":
        *pieces, last = pieces
        assert last.keys() == {"type", "signature"}
        block["signature"] = last["signature"]
    assert [piece["type"] for piece in pieces] == [kind] * len(pieces)
    text = "".join(piece[field] for piece in pieces)
    if block["type"] != "tool_use":
        assert all(piece[field] for piece in pieces)
        return {**block, field: text}
    assert block["input"] == {}
    try:
        return {**block, "input": json.loads(text)}
    except ValueError:
        assert was_cut
        return block


def accumulated_by_sdk(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the message that the SDK makes of the same events, in its own types."""
    snapshot: Any = None
    bufs: dict[int, bytes] = {}
    for event in events:
        typed = _EVENTS.validate_python(event)
        snapshot = accumulate_event(event=typed, current_snapshot=snapshot, json_bufs=bufs)
    made: dict[str, Any] = snapshot.to_dict(mode="json")
    return made
