"""Two clouds' own protocols as scripts of a scripted upstream, by their published specifications.

Anthropic's Messages API (version 2023-06-01): docs.anthropic.com, "Messages" and "Streaming
Messages". Google's Gemini API (v1beta): ai.google.dev, "GenerateContentResponse".
"""

import json
from collections.abc import Iterable
from typing import Any

from tests.harness.scripted_upstream import Conversation

TEXT = ("Hel", "lo\u2028you")
SAID = "".join(TEXT)
TOOL = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Bern"}}


def anthropic_events(
    blocks: Iterable[dict[str, Any]], stop_reason: str = "end_turn"
) -> list[bytes]:
    """Return the events of a message that consists of these content blocks."""
    message = {**_message([], None), "usage": {"input_tokens": 7, "output_tokens": 1}}
    events: list[dict[str, Any]] = [{"type": "message_start", "message": message}]
    for index, block in enumerate(blocks):
        start = {"type": "content_block_start", "index": index}
        if block["type"] == "text":
            events += [{**start, "content_block": {"type": "text", "text": ""}}, {"type": "ping"}]
            deltas = [{"type": "text_delta", "text": text} for text in block["pieces"]]
        else:
            events.append({**start, "content_block": {**block, "input": {}}})
            whole = json.dumps(block["input"])
            pieces = (whole[:4], whole[4:])
            deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
        events += [
            {"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas
        ]
        events.append({"type": "content_block_stop", "index": index})
    delta = {"stop_reason": stop_reason, "stop_sequence": None}
    events.append({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 5}})
    events.append({"type": "message_stop"})
    return [_event(each) for each in events]


def _event(payload: dict[str, Any]) -> bytes:
    text = json.dumps(payload, ensure_ascii=False)
    return f"event: {payload['type']}\ndata: {text}\n\n".encode()


def _message(content: list[dict[str, Any]], stop_reason: str | None) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-large",
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": {"input_tokens": 7, "output_tokens": 5},
    }


async def anthropic(conversation: Conversation) -> None:
    """Answer as Anthropic does: by calling a tool where there is one, else with text."""
    asked = conversation.json
    calls = bool(asked.get("tools"))
    stop_reason = "tool_use" if calls else "end_turn"
    if asked.get("stream"):
        blocks = [TOOL if calls else {"type": "text", "pieces": TEXT}]
        await conversation.begin_stream()
        for event in anthropic_events(blocks, stop_reason):
            await conversation.event(event)
        await conversation.end_stream()
    else:
        content = TOOL if calls else {"type": "text", "text": SAID}
        body = json.dumps(_message([content], stop_reason)).encode()
        await conversation.answer(body, request_id="req_1", anthropic_ratelimit_x="1")


def anthropic_error(kind: str, message: str) -> bytes:
    """Return the body of a refusal."""
    return json.dumps(
        {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}
    ).encode()


def _generated(text: str, *, over: bool) -> dict[str, Any]:
    candidate: dict[str, Any] = {
        "content": {"role": "model", "parts": [{"text": text}]},
        "index": 0,
    }
    if over:
        candidate["finishReason"] = "STOP"
    usage = {"promptTokenCount": 7, "candidatesTokenCount": 5, "totalTokenCount": 12}
    return {
        "candidates": [candidate],
        "usageMetadata": usage,
        "modelVersion": "flash",
        "responseId": "r1",
    }


async def gemini(conversation: Conversation) -> None:
    """Answer as Google's Gemini API does, with text."""
    if ":streamGenerateContent" in conversation.target:
        await conversation.begin_stream()
        for text, over in zip(TEXT, (False, True), strict=True):
            told = json.dumps(_generated(text, over=over), ensure_ascii=False)
            await conversation.event(f"data: {told}\r\n\r\n".encode())
        await conversation.end_stream()
    else:
        await conversation.answer(json.dumps(_generated(SAID, over=True)).encode())
