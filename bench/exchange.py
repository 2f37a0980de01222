"""The request and the answer that every round uses, in the sizes of an ordinary chat."""

import json
from typing import Final

# By its needs: the router classifies and resolves such a request in full.
REQUEST_MODEL: Final = "auto"
# Straight to the provider that answers with streams.
STREAM_MODEL: Final = "streams/m"

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


def request(*, model: str, stream: bool) -> bytes:
    """Return the body of a chat completion request of about 1 KB."""
    body = {
        "model": model,
        "messages": [
            {"role": "system", "content": _SYSTEM},
            {"role": "user", "content": _QUESTION},
            {"role": "assistant", "content": _ANSWER},
            {"role": "user", "content": _FOLLOW_UP},
        ],
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
_BEFORE_TIME = b'"content":"'


def event(written_ns: int) -> bytes:
    """Return one event that says when it was written."""
    return _EVENT % written_ns


def written_ns(one_event: bytes) -> int | None:
    """Return when an event was written; None for an event that does not say."""
    _, found, rest = one_event.partition(_BEFORE_TIME)
    return int(rest[:19]) if found else None
