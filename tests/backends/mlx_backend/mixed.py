"""Requests of every kind that the backend serves, and what their answers say."""

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import httpx2
import pytest

from tests.backends.mlx_backend.pictures import BLUE, RED, data_uri, encoded, question

CHAT = "/v1/chat/completions"
LONG = "tell me about the weather in Paris today " * 4
CALL_TOKEN = 378  # "<tool_call>" in the tiny model's vocabulary; see `test_the_token_of_a_call`
_NEAR = 1e-3

CONVERSATIONS: dict[str, Any] = {
    "count": question("Please count."),
    "long": question(f"{LONG}Please count."),
    "red": question("What colour is this?", data_uri(encoded(RED))),
    "both": question("colour?", *(data_uri(encoded(each, (120, 90))) for each in (RED, BLUE))),
}
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "mood": {"enum": ["calm", "cross"]},
    },
    "required": ["name", "age", "mood"],
    "additionalProperties": False,
}
PAINT: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "paint",
        "parameters": {
            "type": "object",
            "properties": {
                "coats": {"type": "integer", "minimum": 0, "maximum": 9},
            },
            "required": ["coats"],
            "additionalProperties": False,
        },
    },
}
STRUCTURES: dict[str, dict[str, Any]] = {
    "text": {},
    "schema": {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "person", "schema": PERSON},
        },
    },
    "required": {"tools": [PAINT], "tool_choice": "required"},
    "auto": {"tools": [PAINT], "parallel_tool_calls": False},
    "led": {
        "tools": [PAINT],
        "parallel_tool_calls": False,
        "logit_bias": {str(CALL_TOKEN): 100},
    },
}
SAMPLINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "mild": {"temperature": 0.7, "seed": 11},
    "wild": {"temperature": 1.5, "seed": 12, "top_p": 0.99, "top_k": 200, "min_p": 1e-4},
    "penalized": {
        "temperature": 0.7,
        "seed": 14,
        "frequency_penalty": 0.5,
        "presence_penalty": 0.3,
        "repetition_penalty": 1.2,
    },
    "told": {"temperature": 1.5, "seed": 15, "logprobs": True, "top_logprobs": 3},
}


# Those whose answers are calls.
CALLING = {"required", "led"}


def request(conversation: str, structure: str, sampling: str, max_tokens: int) -> dict[str, Any]:
    """Return the body of a request."""
    return {
        "model": "tiny",
        "messages": CONVERSATIONS[conversation],
        "max_tokens": max_tokens,
        **STRUCTURES[structure],
        **SAMPLINGS[sampling],
    }


def every_kind(text_tokens: int, call_tokens: int) -> dict[str, dict[str, Any]]:
    """Return a request of each kind, by name; those that must call may have other tokens."""
    return {
        ", ".join(kind): request(*kind, call_tokens if kind[1] in CALLING else text_tokens)
        for kind in product(CONVERSATIONS, STRUCTURES, SAMPLINGS)
    }


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client has got of an answer, however it came."""

    content: str
    calls: tuple[tuple[str, str], ...]
    reason: str
    prompt_tokens: int
    completion_tokens: int
    tokens: tuple[str, ...]
    logprobs: tuple[float, ...]

    def is_like(self, other: "Answer") -> bool:
        """Tell whether it says the same; log probabilities may differ by rounding."""
        same = (self.content, self.calls, self.reason, self.tokens) == (
            (other.content, other.calls, other.reason, other.tokens)
        )
        usage = (self.prompt_tokens, self.completion_tokens)
        counted = usage == (other.prompt_tokens, other.completion_tokens)
        return same and counted and self.logprobs == pytest.approx(other.logprobs, abs=_NEAR)


def _answer(usage: Mapping[str, int], reason: str, messages: Iterable[Any]) -> Answer:
    content = ""
    calls: dict[int, list[str]] = {}
    told: list[Any] = []
    for message, logprobs in messages:
        content += message.get("content") or ""
        for index, call in enumerate(message.get("tool_calls") or ()):
            known = calls.setdefault(call.get("index", index), ["", ""])
            known[0] += call["function"].get("name") or ""
            known[1] += call["function"].get("arguments") or ""
        told += (logprobs or {}).get("content") or []
    chances = [
        chance
        for each in told
        for chance in (each["logprob"], *(top["logprob"] for top in each["top_logprobs"]))
    ]
    return Answer(
        content,
        tuple((name, arguments) for name, arguments in calls.values()),
        reason,
        usage["prompt_tokens"],
        usage["completion_tokens"],
        tuple(each["token"] for each in told),
        tuple(chances),
    )


def whole_answer(response: httpx2.Response) -> Answer:
    """Read an answer that must be one."""
    assert response.status_code == 200, response.text
    body = response.json()
    (choice,) = body["choices"]
    return _answer(
        body["usage"], choice["finish_reason"], [(choice["message"], choice.get("logprobs"))]
    )


def streamed_answer(response: httpx2.Response) -> Answer:
    """Read a stream that must be whole."""
    assert response.status_code == 200, response.text
    *events, done, rest = response.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", ""), response.text[-300:]
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    return _answer(
        chunks[-1]["usage"],
        choices[-1]["finish_reason"],
        ((choice["delta"], choice.get("logprobs")) for choice in choices),
    )


async def ask(
    http: httpx2.AsyncClient, body: Mapping[str, Any], *, stream: bool, priority: str = "low"
) -> Answer:
    """Ask and read the answer to its end."""
    params = {"priority": priority}
    if not stream:
        return whole_answer(await http.post(CHAT, json=dict(body), params=params))
    streamed = {**body, "stream": True, "stream_options": {"include_usage": True}}
    return streamed_answer(await http.post(CHAT, json=streamed, params=params))


async def leave(
    http: httpx2.AsyncClient,
    body: Mapping[str, Any],
    *,
    stream: bool,
    after_s: float,
    priority: str = "low",
) -> None:
    """Ask, and go away after a while, in whatever phase that is."""
    asking = asyncio.create_task(ask(http, body, stream=stream, priority=priority))
    await asyncio.wait({asking}, timeout=after_s)
    asking.cancel()
    await asyncio.wait({asking})
