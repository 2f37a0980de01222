"""Every endpoint that models answer: a small request to each, and a provider that serves them."""

import json
from typing import Any

from router.capabilities import Capability
from router.endpoints import ENDPOINTS
from tests.harness.asking import JSON_TYPE, Told, ask
from tests.harness.running_router import openai_provider
from tests.harness.scripted_upstream import CHAT, Conversation, ScriptedUpstream

BOUNDARY = "b0"
FORM_TYPE = f"content-type: multipart/form-data; boundary={BOUNDARY}"
AUDIO = b"RIFF\r\n\x00\xff"
TURN = {"role": "user", "content": "hello"}
REQUESTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [TURN]},
    "/v1/completions": {"prompt": "once"},
    "/v1/responses": {"input": "hello"},
    "/v1/messages": {"messages": [TURN], "max_tokens": 9},
    "/v1/messages/count_tokens": {"messages": [TURN]},
    "/v1/embeddings": {"input": "hello"},
    "/v1/rerank": {"query": "hello", "documents": ["a"]},
    "/v1/images/generations": {"prompt": "a cat"},
    "/v1/audio/speech": {"input": "hello", "voice": "alloy"},
    "/v1/audio/transcriptions": {"language": "de"},
}
# Counting is answered by what a chat has cost.
COUNTED = CHAT[:-1] + b',"usage":{"prompt_tokens":3,"completion_tokens":1}}'
ALL_DIALECTS = ["chat", "responses", "messages"]


def form(fields: dict[str, Any]) -> bytes:
    """Return fields as a form with a file."""
    line = "--" + BOUNDARY
    parts = [
        f'{line}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{_text(value)}\r\n'
        for name, value in fields.items()
    ]
    file = f'{line}\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    return "".join(parts).encode() + file.encode() + AUDIO + f"\r\n{line}--\r\n".encode()


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def content_of(path: str, fields: dict[str, Any]) -> tuple[str, bytes]:
    """Return the header line and the bytes of a request to an endpoint."""
    if ENDPOINTS[path].form:
        return FORM_TYPE, form(fields)
    return JSON_TYPE, json.dumps(fields).encode()


async def ask_endpoint(port: int, path: str, *lines: str, **fields: Any) -> Told:
    """Ask an endpoint with a small request and these fields."""
    kind, body = content_of(path, {**REQUESTS[path], **fields})
    return await ask(port, kind, *lines, method="POST", path=path, body=body)


async def serve_all(conversation: Conversation) -> None:
    """Answer at any endpoint, whole."""
    if conversation.target.endswith("/audio/speech"):
        return await conversation.answer(b'"sound"', kind="audio/mpeg")
    return await conversation.answer(COUNTED)


def bound_to(upstream: ScriptedUpstream, model: str = "fm/m", **provider: Any) -> dict[str, Any]:
    """Return settings that bind every capability to one model of a provider of all dialects."""
    told = {"dialects": ALL_DIALECTS, **provider}
    return {
        "providers": {"fm": openai_provider(upstream.url, **told)},
        "capabilities": {str(capability): [model] for capability in Capability},
    }
