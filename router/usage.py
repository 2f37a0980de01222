"""The tokens of an answer as its provider tells them: not counted here, and never guessed."""

from typing import Any, NamedTuple, TypeGuard

# What a provider may claim to have counted; more than that is no count.
_MOST = 1 << 40
# Anthropic tells what it read from its cache, or wrote to it, apart; others within the prompt.
_CACHED = ("cache_creation_input_tokens", "cache_read_input_tokens")


class Usage(NamedTuple):
    """The tokens of one answer."""

    prompt: int
    completion: int


def usage_of(answer: Any) -> Usage | None:
    """Return what an answer, or an event of a stream, tells of its tokens; None for nothing."""
    told = answer.get("usage") if isinstance(answer, dict) else None
    if not isinstance(told, dict):
        return None
    prompt = told.get("prompt_tokens", told.get("input_tokens"))
    completion = told.get("completion_tokens", told.get("output_tokens"))
    if prompt is None and completion is None:
        # Another unit: seconds of sound, or a sum of both.
        return None
    prompt = 0 if prompt is None else prompt
    completion = 0 if completion is None else completion
    if not (_is_count(prompt) and _is_count(completion)):
        return None
    if "input_tokens" not in told:
        return Usage(prompt, completion)
    cached = [each for key in _CACHED if _is_count(each := told.get(key))]
    return Usage(prompt + sum(cached), completion)


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < _MOST
