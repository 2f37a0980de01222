"""The tools that a request offers, and which of them the model is to call."""

from collections.abc import Mapping
from typing import Any, Final

from router.dialects.checks import clipped, kind_at, malformed, object_at, objects_at, text_at
from router.dialects.messages.refusal import check_known, refuse

# `defer_loading` keeps a tool out of the prompt until it is searched for: here all are offered at
# once. `eager_input_streaming` says when arguments are sent, and that is as soon as they come.
_TOOL_FIELDS: Final = frozenset(
    {
        *("type", "name", "description", "input_schema", "strict", "input_examples"),
        *("cache_control", "defer_loading", "eager_input_streaming", "allowed_callers"),
    }
)
_CHOICES: Final = {"auto": "auto", "any": "required", "none": "none"}


def chat_tools(tools: object) -> list[dict[str, Any]]:
    """Return the functions of a chat; raises Refused for a tool that is run by Anthropic."""
    return [_function(tool, path) for path, tool in objects_at(tools, "tools")]


def chat_tool_choice(choice: object, tools: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the fields of a chat that say which of `tools` are to be called, and how many."""
    choice = object_at(choice, "tool_choice")
    check_known(choice, {"type", "name", "disable_parallel_tool_use"}, "tool_choice")
    kind = kind_at(choice, "tool_choice")
    if kind != "tool" and kind not in _CHOICES:
        raise malformed("tool_choice.type", "`auto`, `any`, `tool` or `none`")
    if not tools:
        if kind in {"any", "tool"}:
            raise malformed("tools", "there where tool_choice asks for one")
        return {}
    chosen: dict[str, Any] = {}
    if kind == "tool":
        name = text_at(choice.get("name"), "tool_choice.name")
        chosen["tool_choice"] = {"type": "function", "function": {"name": name}}
    else:
        chosen["tool_choice"] = _CHOICES[kind]
    if choice.get("disable_parallel_tool_use"):
        chosen["parallel_tool_calls"] = False
    return chosen


def _function(tool: Mapping[str, Any], path: str) -> dict[str, Any]:
    kind = tool.get("type")
    if kind not in (None, "custom"):
        refuse(
            path,
            f"is of type {clipped(repr(kind))}, and only tools that say what they take "
            "(`input_schema`) can be offered in a chat completion",
        )
    check_known(tool, _TOOL_FIELDS, path)
    callers = tool.get("allowed_callers")
    if callers is not None and (not isinstance(callers, list) or "direct" not in callers):
        refuse(f"{path}.allowed_callers", "leaves out `direct`, the only way of a chat completion")
    schema = object_at(tool.get("input_schema"), f"{path}.input_schema")
    examples = tool.get("input_examples")
    if examples:
        # What JSON Schema has for it.
        schema = {**schema, "examples": examples}
    function = {"name": text_at(tool.get("name"), f"{path}.name"), "parameters": schema}
    for name in ("description", "strict"):
        if tool.get(name) is not None:
            function[name] = tool[name]
    return {"type": "function", "function": function}
