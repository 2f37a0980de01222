import json
import math
import time
from typing import Any

import pytest
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from backends.mlx_backend.choice import Ended, Piece
from backends.mlx_backend.deltas import CallArguments, CallBegun, Content, Delta, Reasoning
from backends.mlx_backend.errors import ChatError
from backends.mlx_backend.generation import ChosenToken, TokenChance
from backends.mlx_backend.wording import Message, Wording

STOP = Ended("stop", 3, 2, 0, 0)
E_ACUTE = ChosenToken(
    TokenChance(b"\xc3", -0.5), (TokenChance(b"\xc3", -0.5), TokenChance(b"e", -math.inf))
)
DELTAS: list[Delta] = [
    Reasoning("h"),
    Reasoning("m"),
    Content("Let me "),
    Content("see."),
    CallBegun(0, "call_1", "f"),
    CallArguments(0, '{"a"'),
    CallArguments(0, ":1}"),
    CallBegun(1, "call_2", "g"),
    CallArguments(1, "{}"),
]


def events(raw: bytes) -> list[Any]:
    """Return the payloads of a stream; each chunk must be one that OpenAI's SDK knows."""
    out = []
    for event in raw.decode().split("\n\n")[:-1]:
        payload = event.removeprefix("data: ")
        out.append(payload if payload == "[DONE]" else json.loads(payload))
        if isinstance(out[-1], dict) and "choices" in out[-1]:
            ChatCompletionChunk.model_validate_json(payload, strict=True)
    return out


def choice(raw: bytes) -> dict[str, Any]:
    """Return the only choice of the only chunk."""
    (chunk,) = events(raw)
    (only,) = chunk["choices"]
    assert isinstance(only, dict)
    return only


def delta(raw: bytes) -> Any:
    """Return what the only chunk adds."""
    return choice(raw)["delta"]


def message(*deltas: Delta) -> Message:
    """Return a message of these deltas."""
    whole = Message()
    for one in deltas:
        whole.add(Piece(one))
    return whole


def completion(*choices: tuple[Message, Ended], logprobs: bool = False) -> dict[str, Any]:
    """Return a whole answer, which must be one that OpenAI's SDK knows."""
    raw = Wording("m", include_usage=False, logprobs=logprobs).completion(choices)
    ChatCompletion.model_validate_json(raw, strict=True)
    answer = json.loads(raw)
    assert isinstance(answer, dict)
    return answer


def test_a_whole_answer() -> None:
    """An answer of text alone is spelled field by field as OpenAI does."""
    answer = completion((message(Content("hello")), STOP))
    assert answer.pop("id").startswith("chatcmpl-")
    assert abs(answer.pop("created") - time.time()) < 5
    assert answer == {
        "object": "chat.completion",
        "model": "m",
        "system_fingerprint": None,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "hello", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 2,
            "total_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }


def test_a_whole_answer_with_everything() -> None:
    """Reasoning, content and calls each have their field."""
    answer = completion((message(*DELTAS), Ended("tool_calls", 3, 2, 0, 0)))
    assert answer["choices"][0]["message"] == {
        "role": "assistant",
        "content": "Let me see.",
        "refusal": None,
        "reasoning_content": "hm",
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "f", "arguments": '{"a":1}'},
            },
            {"id": "call_2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
        ],
    }
    assert answer["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    ("deltas", "content"),
    [([], ""), ([Reasoning("hm")], ""), ([CallBegun(0, "call_1", "f")], None)],
)
def test_content_that_is_missing(deltas: list[Delta], content: str | None) -> None:
    """Content is null where there are calls alone, and else a string."""
    answer = completion((message(*deltas), STOP))
    assert answer["choices"][0]["message"]["content"] == content


def test_several_choices() -> None:
    """The prompt is counted once, what was generated for all of them."""
    first = Ended("stop", 30, 5, 20, 2)
    second = Ended("length", 30, 7, 30, 3)
    answer = completion((message(Content("a")), first), (message(Content("b")), second))
    assert [one["index"] for one in answer["choices"]] == [0, 1]
    assert [one["message"]["content"] for one in answer["choices"]] == ["a", "b"]
    assert [one["finish_reason"] for one in answer["choices"]] == ["stop", "length"]
    assert answer["usage"] == {
        "prompt_tokens": 30,
        "completion_tokens": 12,
        "total_tokens": 42,
        "prompt_tokens_details": {"cached_tokens": 20},
        "completion_tokens_details": {"reasoning_tokens": 5},
    }


CHANCES = [
    {
        "token": "\N{REPLACEMENT CHARACTER}",
        "logprob": -0.5,
        "bytes": [195],
        "top_logprobs": [
            {"token": "\N{REPLACEMENT CHARACTER}", "logprob": -0.5, "bytes": [195]},
            {"token": "e", "logprob": -9999.0, "bytes": [101]},
        ],
    }
]


def test_log_probabilities_of_a_whole_answer() -> None:
    """Each token is told with its bytes; what is impossible has OpenAI's number for it."""
    whole = Message()
    whole.add(Piece(Content("é"), (E_ACUTE,)))
    answer = completion((whole, STOP), logprobs=True)
    assert answer["choices"][0]["logprobs"] == {"content": CHANCES, "refusal": None}
    assert completion((whole, STOP))["choices"][0]["logprobs"] is None


def test_log_probabilities_that_are_no_numbers() -> None:
    """A model that computes nonsense does not make invalid JSON."""
    whole = Message()
    whole.add(Piece(Content("a"), (ChosenToken(TokenChance(b"a", math.nan), ()),)))
    answer = completion((whole, STOP), logprobs=True)
    assert answer["choices"][0]["logprobs"]["content"][0]["logprob"] == -9999.0


def test_log_probabilities_of_no_tokens() -> None:
    """Who asked for them gets an empty list where there was no content."""
    answer = completion((message(), STOP), logprobs=True)
    assert answer["choices"][0]["logprobs"] == {"content": [], "refusal": None}


def test_log_probabilities_of_a_chunk() -> None:
    """A chunk tells of the tokens of its content."""
    wording = Wording("m", include_usage=False, logprobs=True)
    spelled = choice(wording.piece(0, Piece(Content("é"), (E_ACUTE,))))
    assert spelled["logprobs"] == {"content": CHANCES, "refusal": None}
    assert choice(wording.piece(0, Piece(Reasoning("a"))))["logprobs"] is None


@pytest.mark.parametrize(
    ("first", "content"),
    [(Content("a"), ""), (None, ""), (Reasoning("a"), None), (CallBegun(0, "call_1", "f"), None)],
)
def test_the_role_comes_first(first: Delta | None, content: str | None) -> None:
    """The first chunk says whose words they are, and whether content is to follow."""
    wording = Wording("m", include_usage=False)
    assert choice(wording.role(2, first)) == {
        "index": 2,
        "delta": {"role": "assistant", "content": content, "refusal": None},
        "logprobs": None,
        "finish_reason": None,
    }


def test_deltas() -> None:
    """Each delta has its form; a call says its id, type and name once."""
    wording = Wording("m", include_usage=False)
    function = {"name": "g", "arguments": ""}
    begun = {"index": 1, "id": "call_2", "type": "function", "function": function}
    more = {"index": 1, "function": {"arguments": "{}"}}
    assert delta(wording.piece(0, Piece(Content("é")))) == {"content": "é"}
    assert delta(wording.piece(0, Piece(Reasoning("hm")))) == {"reasoning_content": "hm"}
    assert delta(wording.piece(0, Piece(CallBegun(1, "call_2", "g")))) == {"tool_calls": [begun]}
    assert delta(wording.piece(0, Piece(CallArguments(1, "{}")))) == {"tool_calls": [more]}


def test_the_sdk_puts_a_stream_together() -> None:
    """What OpenAI's SDK accumulates from the chunks is what the whole answer says."""
    wording = Wording("m", include_usage=True)
    end = Ended("tool_calls", 3, 2, 0, 0)
    raw = wording.role(0, DELTAS[0]) + b"".join(wording.piece(0, Piece(one)) for one in DELTAS)
    state: ChatCompletionStreamState[None] = ChatCompletionStreamState()
    for chunk in events(raw + wording.end(0, end) + wording.done([end]))[:-1]:
        state.handle_chunk(ChatCompletionChunk.model_validate(chunk))
    streamed = state.get_final_completion().model_dump(exclude_none=True)
    whole = completion((message(*DELTAS), end))
    told = streamed["choices"][0]["message"]
    for call in told["tool_calls"]:
        call.pop("index", None)
        call["function"].pop("parsed_arguments", None)
    expected = whole["choices"][0]["message"]
    assert {key: told.get(key) for key in expected} == expected
    assert streamed["choices"][0]["finish_reason"] == "tool_calls"
    assert streamed["usage"] == whole["usage"]


def test_a_stream_that_asked_for_usage() -> None:
    """Usage is null in every chunk and comes in one of its own, with no choices, at the end."""
    wording = Wording("m", include_usage=True)
    raw = wording.role(0, None) + wording.piece(0, Piece(Content("é"))) + wording.end(0, STOP)
    role, text, finish, last, done = events(raw + wording.done([STOP]))
    assert role["choices"][0]["delta"]["role"] == "assistant"
    assert text["choices"][0]["delta"] == {"content": "é"}
    assert finish["choices"] == [
        {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}
    ]
    assert [chunk["usage"] for chunk in (role, text, finish)] == [None] * 3
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 5
    assert done == "[DONE]"
    assert {chunk["object"] for chunk in (role, text, finish, last)} == {"chat.completion.chunk"}
    assert len({(chunk["id"], chunk["created"]) for chunk in (role, text, finish, last)}) == 1


def test_a_stream_that_did_not_ask_for_usage() -> None:
    """Without the option no chunk knows of usage."""
    wording = Wording("m", include_usage=False)
    raw = wording.role(0, None) + wording.end(0, STOP) + wording.done([STOP])
    assert not any("usage" in event for event in events(raw))


def test_an_error_in_a_stream() -> None:
    """A stream that fails ends with the envelope, which the SDKs raise."""
    (event,) = events(Wording.error(ChatError("generation_failed", "why")))
    assert event["error"]["code"] == "generation_failed"
    assert event["error"]["type"] == "internal_server_error"
