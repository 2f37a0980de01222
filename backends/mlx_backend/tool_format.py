"""Tools for models whose chat template knows none: told and spelled in the text, as Hermes does."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from backends.mlx_backend.deltas import CALL, END_CALL
from backends.mlx_backend.generation import Tool

Messages = Sequence[Mapping[str, Any]]

_ANSWER, _END_ANSWER = "<tool_response>", "</tool_response>"
_SYSTEM = """\
You may call functions to help with the user's request. These are the functions:
<tools>
{tools}
</tools>
To call one, write its name and its arguments as JSON, like this:
<tool_call>
{{"name": "<name of the function>", "arguments": {{<its arguments>}}}}
</tool_call>
What it returns comes back between <tool_response> and </tool_response>. If no function \
helps, just answer."""

# Words that stand in no template.
_PROBE = Tool(
    "probe_wadis",
    "probe_mulek",
    {"type": "object", "properties": {"probe_tovan": {"type": "string"}}},
)
_PROBE_MESSAGES: Messages = (
    {"role": "user", "content": "probe_sirul"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {
                "id": "call_0",
                "type": "function",
                "function": {"name": _PROBE.name, "arguments": {"probe_tovan": "probe_kerim"}},
            }
        ],
    },
    {
        "role": "tool",
        "tool_call_id": "call_0",
        "name": _PROBE.name,
        "content": "probe_gaburo",
    },
)


def as_openai(tools: Iterable[Tool]) -> list[dict[str, Any]]:
    """Return tools as the API and chat templates spell them."""
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": dict(tool.parameters),
            },
        }
        for tool in tools
    ]


def renders_tools(render: Callable[[list[dict[str, Any]], list[dict[str, Any]]], str]) -> bool:
    """Tell whether a chat template shows tools, calls and results in Hermes' format.

    `render` is given messages and tools and returns the prompt; that it raises jinja2's
    TemplateError is a no. A template with another format of its own, Qwen3-Coder's
    `<function=…>` for one, is a no as well: what its model writes would not be understood.
    """
    try:
        text = render([dict(message) for message in _PROBE_MESSAGES], as_openai([_PROBE]))
    except TemplateError:
        return False
    # The name alone is no sign: it stands in the call too.
    shown = (_PROBE.description, "probe_tovan", "probe_sirul", "probe_kerim", "probe_gaburo")
    calls = text.split(CALL)[1:]
    spelled = any(_is_probe_call(call.partition(END_CALL)[0]) for call in calls)
    return spelled and all(word in text for word in shown)


def _is_probe_call(text: str) -> bool:
    try:
        call: object = json.loads(text)
    except ValueError:
        return False
    return call == {"name": _PROBE.name, "arguments": {"probe_tovan": "probe_kerim"}}


def with_tools_in_text(messages: Messages, tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """Return the conversation in words that every chat template knows.

    The tools stand in the system message, calls in the assistant's text, results in the user's.
    What then would be two turns of one role in a row is one.
    """
    told = [_told(message) for message in messages]
    if tools:
        lines = (json.dumps(tool, ensure_ascii=False) for tool in as_openai(tools))
        text = _SYSTEM.format(tools="\n".join(lines))
        told.insert(0, {"role": "system", "content": text})
        if len(told) > 1 and told[1]["role"] == "system":
            # The client's own instructions come first, as in templates that know tools.
            told[0], told[1] = told[1], told[0]
    return _alternating(told)


def _told(message: Mapping[str, Any]) -> dict[str, Any]:
    if message["role"] == "tool":
        text = f"{_ANSWER}\n{message['content']}\n{_END_ANSWER}"
        return {"role": "user", "content": text}
    calls = [_spelled(call["function"]) for call in message.get("tool_calls") or ()]
    if not calls:
        return dict(message)
    said = [message["content"]] if message["content"] else []
    return {"role": message["role"], "content": "\n".join([*said, *calls])}


def _spelled(function: Mapping[str, Any]) -> str:
    call = {"name": function["name"], "arguments": function["arguments"]}
    return f"{CALL}\n{json.dumps(call, ensure_ascii=False)}\n{END_CALL}"


def _alternating(messages: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    merged: list[dict[str, Any]] = []
    for message in messages:
        if merged and merged[-1]["role"] == message["role"]:
            both = _joined(merged[-1]["content"], message["content"], message["role"])
            merged[-1] = {"role": message["role"], "content": both}
        else:
            merged.append(message)
    return merged


def _joined(first: Any, second: Any, role: str) -> Any:
    if isinstance(first, str) and isinstance(second, str):
        return f"{first}\n\n{second}" if role == "system" else f"{first}\n{second}"
    return _parts(first) + _parts(second)


def _parts(content: Any) -> list[Any]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
