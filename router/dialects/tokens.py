"""The tokens of an answer with their details, as far as its provider tells any."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from router.usage import usage_of


class Tokens(NamedTuple):
    """Those of the prompt and of the answer; None for a detail that was not told.

    `cached` were read from a cache, and `written` to it; `thought` are a part of the answer's.
    """

    prompt: int
    completion: int
    cached: int | None
    written: int | None
    thought: int | None


def tokens_of(chat: Mapping[str, Any]) -> Tokens | None:
    """Return what an answer, or a chunk, tells of its tokens; None where that is nothing."""
    counted = usage_of(chat)
    if counted is None:
        return None
    prompt = chat["usage"].get("prompt_tokens_details")
    completion = chat["usage"].get("completion_tokens_details")
    return Tokens(
        counted.prompt,
        counted.completion,
        cached=_detail(prompt, "cached_tokens"),
        written=_detail(prompt, "cache_write_tokens"),
        thought=_detail(completion, "reasoning_tokens"),
    )


def _detail(details: object, name: str) -> int | None:
    value = details.get(name) if isinstance(details, dict) else None
    return value if type(value) is int and value >= 0 else None
