"""How an answer is spelled: OpenAI's chat completion, whole or in chunks."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, assert_never
from uuid import uuid4

import msgspec

from backends.mlx_backend.choice import Ended, Piece
from backends.mlx_backend.deltas import CallArguments, CallBegun, Content, Delta, Reasoning
from backends.mlx_backend.errors import ChatError
from backends.mlx_backend.generation import ChosenToken, TokenChance

# What OpenAI writes for a token that is as good as impossible; JSON has neither infinity nor NaN.
_IMPOSSIBLE = -9999.0


def usage(ends: Sequence[Ended]) -> dict[str, Any]:
    """Return OpenAI's usage of one answer; its choices, first the first, share the prompt."""
    first = ends[0]
    completion = sum(end.completion_tokens for end in ends)
    return {
        "prompt_tokens": first.prompt_tokens,
        "completion_tokens": completion,
        "total_tokens": first.prompt_tokens + completion,
        "prompt_tokens_details": {"cached_tokens": first.cached_tokens},
        "completion_tokens_details": {
            "reasoning_tokens": sum(end.reasoning_tokens for end in ends)
        },
    }


@dataclass(slots=True)
class _Call:
    id: str
    name: str
    arguments: str = ""


@dataclass(slots=True)
class Message:
    """A choice that is not streamed, as far as it has come."""

    content: str = ""
    reasoning: str = ""
    calls: list[_Call] = field(default_factory=list)
    tokens: list[ChosenToken] = field(default_factory=list)

    def add(self, piece: Piece) -> None:
        """Take more of it."""
        self.tokens += piece.tokens
        match piece.delta:
            case Content(text=text):
                self.content += text
            case Reasoning(text=text):
                self.reasoning += text
            case CallBegun(id=call_id, name=name):
                self.calls.append(_Call(call_id, name))
            case CallArguments(index=index, text=text):
                self.calls[index].arguments += text
            case _:
                assert_never(piece.delta)

    def spelled(self) -> dict[str, Any]:
        """Return OpenAI's message; the content is null where there are calls alone."""
        message: dict[str, Any] = {
            "role": "assistant",
            "content": self.content if self.content or not self.calls else None,
            "refusal": None,
        }
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in self.calls
            ]
        return message


class Wording:
    """Spells one answer; all of it shares an id and a time.

    `logprobs`: log probabilities were asked for.
    """

    def __init__(self, model: str, *, include_usage: bool, logprobs: bool = False) -> None:
        self._include_usage = include_usage
        self._logprobs = logprobs
        self._shared = {
            "id": f"chatcmpl-{uuid4().hex}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": None,
        }
        # What stands around each choice of a stream, spelled once.
        chunk = {**self._shared, "object": "chat.completion.chunk"}
        self._head = b"data: " + msgspec.json.encode(chunk).removesuffix(b"}") + b',"choices":['
        # A client that asked for usage gets the field in every chunk, null but in the last.
        self._tail = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"

    def completion(self, choices: Sequence[tuple[Message, Ended]]) -> bytes:
        """Return the body of an answer that is not streamed."""
        spelled = [
            {
                "index": index,
                "message": message.spelled(),
                "logprobs": _logprobs(message.tokens) if self._logprobs else None,
                "finish_reason": end.reason,
            }
            for index, (message, end) in enumerate(choices)
        ]
        ends = [end for _, end in choices]
        answer = {**self._shared, "object": "chat.completion", "choices": spelled}
        return msgspec.json.encode({**answer, "usage": usage(ends)})

    def role(self, index: int, first: Delta | None) -> bytes:
        """Return the first event of a choice; its content is null where something else is first."""
        content = "" if first is None or isinstance(first, Content) else None
        delta = {"role": "assistant", "content": content, "refusal": None}
        return self._choice(index, delta)

    def piece(self, index: int, piece: Piece) -> bytes:
        """Return an event with more of a choice."""
        return self._choice(index, _spelled(piece.delta), piece.tokens)

    def end(self, index: int, end: Ended) -> bytes:
        """Return the last event of a choice."""
        return self._choice(index, {}, reason=end.reason)

    def done(self, ends: Sequence[Ended]) -> bytes:
        """Return the last events of a stream."""
        events = b""
        if self._include_usage:
            events = self._head + b'],"usage":' + msgspec.json.encode(usage(ends)) + b"}\n\n"
        return events + b"data: [DONE]\n\n"

    @staticmethod
    def error(error: ChatError) -> bytes:
        """Return the event that ends a stream which failed; nothing follows it."""
        return b"data: " + msgspec.json.encode(error.body()) + b"\n\n"

    def _choice(
        self,
        index: int,
        delta: Mapping[str, Any],
        tokens: Sequence[ChosenToken] = (),
        reason: str | None = None,
    ) -> bytes:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": _logprobs(tokens) if tokens else None,
            "finish_reason": reason,
        }
        return self._head + msgspec.json.encode(choice) + self._tail


def _spelled(delta: Delta) -> dict[str, Any]:
    match delta:
        case Content(text=text):
            return {"content": text}
        case Reasoning(text=text):
            # DeepSeek's word for it; OpenAI has none in chat completions.
            return {"reasoning_content": text}
        case CallBegun(index=index, id=call_id, name=name):
            function = {"name": name, "arguments": ""}
            call = {"index": index, "id": call_id, "type": "function", "function": function}
            return {"tool_calls": [call]}
        case CallArguments(index=index, text=text):
            return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}
        case _:
            assert_never(delta)


def _logprobs(tokens: Sequence[ChosenToken]) -> dict[str, Any]:
    content = [
        {**_chance(token.chosen), "top_logprobs": [_chance(one) for one in token.top]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def _chance(chance: TokenChance) -> dict[str, Any]:
    return {
        "token": chance.raw.decode("utf-8", "replace"),
        "logprob": max(_IMPOSSIBLE, chance.logprob),
        "bytes": list(chance.raw),
    }
