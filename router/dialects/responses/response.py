"""The response object: what was asked, told again, around what was answered."""

from collections.abc import Mapping
from typing import Any, Final

from router.dialects.tokens import Tokens

# What is told again as it was asked, and what it is where it was not.
_TOLD_AGAIN: Final[Mapping[str, Any]] = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "prompt_cache_key": None,
    "safety_identifier": None,
    "service_tier": None,
    "temperature": None,
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": None,
    "truncation": "disabled",
    "user": None,
}
# A tool has these, null where nothing was said of them.
_OF_FUNCTIONS: Final[Mapping[str, Any]] = {"description": None, "parameters": None, "strict": None}


def unanswered(
    fields: Mapping[str, Any], *, request_id: str, now: int, withheld: tuple[str, ...]
) -> dict[str, Any]:
    """Return the response to a request of which nothing has come yet.

    `withheld` are the ids of reasoning items that the model was not shown.
    """
    told = {
        name: fields[name] if fields.get(name) is not None else otherwise
        for name, otherwise in _TOLD_AGAIN.items()
    }
    reasoning, text = fields.get("reasoning") or {}, fields.get("text") or {}
    response = {
        "id": f"resp_{request_id}",
        "object": "response",
        "created_at": now,
        "status": "in_progress",
        "background": False,
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "model": fields.get("model") or "",
        "output": [],
        "previous_response_id": None,
        "store": False,
        "usage": None,
        **told,
        "tools": [_tool(tool) for tool in told["tools"]],
        "reasoning": {"effort": None, "summary": None, **reasoning},
        "text": {**text, "format": text.get("format") or {"type": "text"}},
    }
    if withheld:
        response["input_transformations"] = [
            {"id": each, "type": "reasoning", "action": "removed", "reason": "model_mismatch"}
            for each in withheld
        ]
    return response


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    return {**_OF_FUNCTIONS, **tool} if tool.get("type") == "function" else tool


def usage_told(tokens: Tokens | None) -> dict[str, Any] | None:
    """Return the usage of a response; None where the provider told none.

    Details that were not told are 0: the protocol has no other word.
    """
    if tokens is None:
        return None
    return {
        "input_tokens": tokens.prompt,
        "input_tokens_details": {
            "cached_tokens": tokens.cached or 0,
            "cache_write_tokens": tokens.written or 0,
        },
        "output_tokens": tokens.completion,
        "output_tokens_details": {"reasoning_tokens": tokens.thought or 0},
        "total_tokens": tokens.prompt + tokens.completion,
    }
