"""What a chat completion says, checked: its provider may have written anything."""

from collections.abc import Iterator, Mapping
from typing import Any

from router.errors import StreamFailed
from router.usage import usage_of

Piece = Mapping[str, Any]


def invalid(what: str) -> StreamFailed:
    """Return the failure of an answer that cannot be put back."""
    return StreamFailed("upstream_invalid_frame", f"The provider sent {what}.")


def choice_of(chat: Mapping[str, Any]) -> Piece | None:
    """Return the one choice of an answer or of a chunk; None where a chunk has none.

    StreamFailed for several: one answer was asked for.
    """
    choices = chat.get("choices") or []
    if not isinstance(choices, list) or len(choices) > 1:
        raise invalid("not one choice but several, or none that can be read")
    if not choices:
        return None
    if not isinstance(choices[0], dict):
        raise invalid("a choice that is no object")
    return choices[0]


def object_of(value: Any, what: str) -> Piece:
    """Return an object, an empty one for null; StreamFailed for anything else."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid(f"{what} that is no object")
    return value


def text_of(piece: Piece, name: str) -> str:
    """Return a text, "" for null or none; StreamFailed for anything else."""
    value = piece.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise invalid(f"{name} that is no text")
    return value


def reasoning_of(delta: Piece) -> str:
    """Return what was thought: servers have two names for it, and some send both."""
    return text_of(delta, "reasoning_content") or text_of(delta, "reasoning")


def pieces_of_calls(delta: Piece) -> Iterator[tuple[int, Piece]]:
    """Yield the pieces of calls, each with its place among those that came with it."""
    pieces = delta.get("tool_calls") or []
    if not isinstance(pieces, list):
        raise invalid("tool_calls that are no list")
    for place, piece in enumerate(pieces):
        yield place, object_of(piece, "a tool call")


def logprobs_of(choice: Piece) -> list[dict[str, Any]]:
    """Return the log probabilities of what a choice says."""
    told = object_of(choice.get("logprobs"), "logprobs").get("content") or []
    if not isinstance(told, list):
        raise invalid("logprobs that are no list")
    return [{**_chance(token), "top_logprobs": _others(token)} for token in told]


def _others(token: Piece) -> list[dict[str, Any]]:
    others = token.get("top_logprobs") or []
    if not isinstance(others, list):
        raise invalid("top_logprobs that are no list")
    return [_chance(other) for other in others]


def _chance(token: Any) -> dict[str, Any]:
    if not isinstance(token, dict) or not isinstance(token.get("token"), str):
        raise invalid("a log probability that names no token")
    return {
        "token": token["token"],
        "logprob": token.get("logprob"),
        "bytes": token.get("bytes") or [],
    }


def tokens_of(chat: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the usage of a response; None where the provider told none.

    Details that were not told are 0: the protocol has no other word.
    """
    counted = usage_of(chat)
    if counted is None:
        return None
    told = chat["usage"]
    read, written = _details(told, "prompt"), _details(told, "completion")
    return {
        "input_tokens": counted.prompt,
        "input_tokens_details": {
            "cached_tokens": _count(read, "cached_tokens"),
            "cache_write_tokens": _count(read, "cache_write_tokens"),
        },
        "output_tokens": counted.completion,
        "output_tokens_details": {"reasoning_tokens": _count(written, "reasoning_tokens")},
        "total_tokens": counted.prompt + counted.completion,
    }


def _details(told: Mapping[str, Any], which: str) -> Piece:
    details = told.get(f"{which}_tokens_details")
    return details if isinstance(details, dict) else {}


def _count(details: Piece, name: str) -> int:
    value = details.get(name)
    return value if type(value) is int else 0
