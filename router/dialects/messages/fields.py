"""The fields of a request: which are put into the chat, which pass, which change nothing.

Every other one is refused by its name: what a chat completion cannot say is never left out
silently. The names are those of Anthropic's API reference for `POST /v1/messages`, its betas
included.
"""

from collections.abc import Mapping
from typing import Any, Final

from router.dialects.checks import (
    clipped,
    kind_at,
    list_at,
    malformed,
    object_at,
    objects_at,
    text_at,
    unless_null,
)
from router.dialects.messages.conversation import chat_messages
from router.dialects.messages.refusal import check_known, refuse
from router.dialects.messages.tools import chat_tool_choice, chat_tools

TRANSLATED: Final = frozenset(
    {
        *("messages", "system", "max_tokens", "stop_sequences", "stream", "thinking"),
        *("tools", "tool_choice", "output_config", "output_format"),
    }
)
# Known by the same name: to OpenAI, or to the servers that local models run on. Those that
# Anthropic does not have come from clients that know who is behind us.
PASSED: Final = frozenset(
    {
        *("temperature", "top_p", "top_k"),
        *("chat_template_kwargs", "frequency_penalty", "logit_bias", "min_p", "presence_penalty"),
        *("reasoning_effort", "repetition_penalty", "seed"),
    }
)
# The answer is the same without them. `metadata` tells Anthropic who the user is, and nobody else
# need know; the others are about its caches, tiers, accounts and diagnoses. The model is the
# route's.
LEFT_OUT: Final = frozenset(
    {
        *("model", "metadata", "cache_control", "service_tier", "speed", "diagnostics"),
        *("fallbacks", "fallback_credit_token"),
    }
)
# Refused, but for these values.
CHECKED: Final = {"context_management": "`clear_thinking` edits", "mcp_servers": "none"}
# Refused, as is every field that is not known.
REFUSED: Final = frozenset({"billing_policy", "compaction", "container", "inference_geo", "thread"})
# Thoughts of earlier turns are forgotten by the models' own templates, or are no hindrance.
_HARMLESS_EDIT: Final = "clear_thinking_20251015"
_THINKING_FIELDS: Final = frozenset({"type", "budget_tokens", "display"})
_THINKING: Final = frozenset({"enabled", "adaptive", "between_tools", "disabled"})
# How models are kept from reasoning: OpenAI's way, and that of chat templates.
_NO_REASONING: Final = {
    "reasoning_effort": "none",
    "chat_template_kwargs": {"enable_thinking": False},
}


def chat_fields(fields: Mapping[str, Any], *, counted: bool = False) -> dict[str, Any]:
    """Return the body of the chat completion, without its model.

    With `counted` it is made for the tokens of its prompt alone. Raises Refused.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    _check(given)
    chat: dict[str, Any] = {"messages": chat_messages(given, continued=counted)}
    _check_thinking(given)
    chat |= {name: given[name] for name in PASSED if name in given}
    tools = chat_tools(given["tools"]) if "tools" in given else []
    if tools:
        chat["tools"] = tools
    if "tool_choice" in given:
        chosen = chat_tool_choice(given["tool_choice"], tools)
        # To be made to call something costs no tokens, and one token is no call.
        if not counted or chosen.get("tool_choice") == "none":
            chat |= chosen
    schema = _schema(given)
    if counted:
        return {**chat, "max_tokens": 1}
    if schema is not None:
        chat["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema, "strict": True},
        }
    return {**chat, **_limits(given)}


def shows_thinking(fields: Mapping[str, Any]) -> bool:
    """Tell whether the answer is to show what the model thought, which it is unless told not to."""
    thinking = fields.get("thinking")
    if not isinstance(thinking, dict):
        return True
    return thinking.get("type") != "disabled" and thinking.get("display") != "omitted"


def hints(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what keeps a model from thinking where the request does not want that."""
    thinking = fields.get("thinking")
    unwanted = isinstance(thinking, dict) and thinking.get("type") == "disabled"
    return _NO_REASONING if unwanted else {}


def stop_sequences(fields: Mapping[str, Any]) -> list[str]:
    """Return the texts at which the answer is to stop."""
    given = fields.get("stop_sequences")
    texts = [] if given is None else list_at(given, "stop_sequences")
    return [text_at(each, f"stop_sequences[{index}]") for index, each in enumerate(texts)]


def _check(given: Mapping[str, Any]) -> None:
    """Refuse the fields that nothing can be made of."""
    for name, value in given.items():
        if name in CHECKED:
            _CHECKS[name](value)
        elif name not in TRANSLATED and name not in PASSED and name not in LEFT_OUT:
            refuse(clipped(name), "cannot be put as a chat completion")


def _check_context(value: object) -> None:
    path = "context_management"
    context = object_at(value, path)
    check_known(context, {"edits"}, path)
    for below, edit in objects_at(unless_null(context.get("edits"), []), f"{path}.edits"):
        if kind_at(edit, below) != _HARMLESS_EDIT:
            refuse(below, f"is {clipped(edit['type'])!r}, which only Anthropic's servers do")


def _check_servers(value: object) -> None:
    if list_at(value, "mcp_servers"):
        refuse("mcp_servers", "are called by Anthropic's servers, and by no chat completion")


_CHECKS: Final = {"context_management": _check_context, "mcp_servers": _check_servers}


def _check_thinking(given: Mapping[str, Any]) -> None:
    """Refuse a way to think that is not known.

    Where a model may, nothing is asked of the server: it thinks as it was made to, and the number
    of `budget_tokens` has no place in a chat.
    """
    if "thinking" not in given:
        return
    thinking = object_at(given["thinking"], "thinking")
    check_known(thinking, _THINKING_FIELDS, "thinking")
    kind = kind_at(thinking, "thinking")
    if kind not in _THINKING:
        refuse("thinking.type", f"is {clipped(kind)!r}, which cannot be put as a chat completion")


def _limits(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return how long the answer may be, where it stops, and whether it is streamed."""
    limits: dict[str, Any] = {}
    if "max_tokens" in given:
        wanted = given["max_tokens"]
        if type(wanted) is not int or wanted < 0:
            raise malformed("max_tokens", "a whole number")
        if wanted == 0:
            refuse("max_tokens", "is 0, and a chat completion has at least one token")
        limits["max_tokens"] = wanted
    stops = stop_sequences(given)
    if stops:
        limits["stop"] = stops
    if "stream" in given:
        if type(given["stream"]) is not bool:
            raise malformed("stream", "true or false")
        limits["stream"] = given["stream"]
    return limits


def _schema(given: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the schema that the answer is to follow; its field has an older name too."""
    config = object_at(given.get("output_config", {}), "output_config")
    # `effort` is a hint. Chats have `reasoning_effort` for it, which servers refuse where a model
    # does not reason, and who sends a hint with everything would get nothing.
    check_known(config, {"effort", "format"}, "output_config")
    wanted, path = config.get("format"), "output_config.format"
    if wanted is None:
        wanted, path = given.get("output_format"), "output_format"
    elif "output_format" in given:
        raise malformed("output_format", "absent where output_config.format is given")
    if wanted is None:
        return None
    wanted = object_at(wanted, path)
    check_known(wanted, {"type", "schema"}, path)
    if kind_at(wanted, path) != "json_schema":
        raise malformed(f"{path}.type", "`json_schema`")
    return object_at(wanted.get("schema"), f"{path}.schema")
