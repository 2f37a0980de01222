"""The request and the answer that every round uses, in the sizes of an ordinary chat."""

import base64
import json
import random
import struct
from collections.abc import Sequence
from typing import Any

IMAGE_BODY_BYTES = 5_000_000

# Stands for a conversation: a system text, a few turns and the usual parameters, about 1 KB.
_QUESTION = (
    "Explain in two or three sentences how a signal box works, and why its levers are locked "
    "against each other. Leave out history and dates; name the parts that a visitor can see."
)
_ANSWER = (
    "A signal box holds the levers that set points and signals. Locking bars under the floor "
    "keep a signal from being cleared before its route is set, and a route from being changed "
    "while a signal protects it. A visitor sees the lever frame, the block shelf and the bells."
)
_FOLLOW_UP = (
    "Which of these does a signaller touch first when a train is offered, and what follows?"
)
_SYSTEM = (
    "You are a careful assistant. Answer briefly and in plain words, say what you do not know, "
    "and use the words that people of the trade use themselves, explained where that helps."
)


def request(model: str, *, stream: bool = False) -> bytes:
    """Return the body of a chat completion request of about 1 KB."""
    messages = [
        {"role": "system", "content": _SYSTEM},
        {"role": "user", "content": _QUESTION},
        {"role": "assistant", "content": _ANSWER},
        {"role": "user", "content": _FOLLOW_UP},
    ]
    return _chat(model, messages, stream=stream)


def image_request(model: str) -> bytes:
    """Return the body of a request with one picture in it, of about IMAGE_BODY_BYTES."""
    # A picture that was photographed does not compress, so neither does this one.
    noise = random.Random(1).randbytes(IMAGE_BODY_BYTES * 3 // 4)  # noqa: S311 no secret
    header = struct.pack(">IIBBBBB", 1024, 1024, 8, 2, 0, 0, 0)
    picture = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + header + noise
    address = "data:image/png;base64," + base64.b64encode(picture).decode()
    content = [
        {"type": "text", "text": _FOLLOW_UP},
        {"type": "image_url", "image_url": {"url": address}},
    ]
    return _chat(model, [{"role": "user", "content": content}], stream=False)


def _chat(model: str, messages: Sequence[dict[str, Any]], *, stream: bool) -> bytes:
    body = {
        "model": model,
        "messages": messages,
        "temperature": 0.2,
        "max_tokens": 256,
        "stream": stream,
    }
    return json.dumps(body).encode()


def answer() -> bytes:
    """Return the body of a whole answer of about 0.6 KB."""
    body = {
        "id": "chatcmpl-bench",
        "object": "chat.completion",
        "created": 1_760_000_000,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": _ANSWER},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 190, "completion_tokens": 61, "total_tokens": 251},
    }
    return json.dumps(body).encode()


# An event of a stream, about 180 bytes. Its text is when it was written, in nanoseconds of the
# monotonic clock, which all processes of a machine share.
_EVENT = (
    b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk",'
    b'"created":1760000000,"model":"m","choices":[{"index":0,"delta":{"content":"%019d"},'
    b'"finish_reason":null}]}\n\n'
)
LAST_EVENTS = (
    b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk",'
    b'"created":1760000000,"model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}'
    b"\n\ndata: [DONE]\n\n"
)
_BEFORE_TIME = b'"content":'


def event(written_ns: int) -> bytes:
    """Return one event that says when it was written."""
    return _EVENT % written_ns


def written_ns(one_event: bytes) -> int | None:
    """Return when an event was written; None for an event that does not say."""
    _, _, rest = one_event.partition(_BEFORE_TIME)
    # Some gateways write every event anew, and put a space here; their last ones say null or "".
    digits = rest.lstrip()[1:20]
    return int(digits) if digits.isdigit() else None
