"""The tokens of an answer as its provider tells them: not counted here, and never guessed."""

from typing import Any, NamedTuple, TypeGuard

# What a provider may claim to have counted; more than that is no count.
_MOST = 1 << 40


class Usage(NamedTuple):
    """The tokens of one answer."""

    prompt: int
    completion: int


def usage_of(answer: Any) -> Usage | None:
    """Return what an answer, or an event of a stream, tells of its tokens; None for nothing."""
    told = answer.get("usage") if isinstance(answer, dict) else None
    if not isinstance(told, dict):
        return None
    prompt = told.get("prompt_tokens", told.get("input_tokens", 0))
    completion = told.get("completion_tokens", told.get("output_tokens", 0))
    if _is_count(prompt) and _is_count(completion):
        return Usage(prompt, completion)
    return None


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < _MOST
